from pathlib import Path

import pytest

from moeash.errors import InputError
from moeash.exports.formats.names import FORMATS, SUFFIXES, targets
from moeash.exports.formats.table import TABLE


def test_every_format_has_a_suffix_and_a_place_in_the_table():
    assert set(FORMATS) == set(SUFFIXES) == set(TABLE)
    assert all(TABLE[name].name == name for name in FORMATS)
    ends = [end for ends in SUFFIXES.values() for end in ends]
    assert len({*ends}) == len(ends)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_of_the_format_it_is_named_like(name):
    for end in SUFFIXES[name]:
        assert targets(Path(f"a{end}"), []) == [(name, Path(f"a{end}"))]


def test_a_file_named_like_none_is_of_the_default_format():
    assert targets(Path("a.bin"), []) == [("moeash", Path("a.bin"))]
    assert targets(Path("a.v1"), [], default="torch") == [("torch", Path("a.v1"))]
    assert targets(Path("a.v1"), ["c"]) == [("c", Path("a.v1"))]


def test_several_formats_share_a_name_and_have_their_own_suffixes():
    assert [p.name for _, p in targets(Path("a.b.pt"), ["c", "onnx"])] == ["a.b.h", "a.b.onnx"]
    assert [p.name for _, p in targets(Path("v1.5"), ["c", "onnx"])] == ["v1.5.h", "v1.5.onnx"]


@pytest.mark.parametrize(
    ("to", "names", "message"),
    [
        ("a", ["onxx"], "no format is called 'onxx'; nearest: 'onnx'"),
        ("a", ["c", "c"], "name one twice"),
        ("a.c", [], "'a.c' is named like a source file of C, .* call it 'a.h'"),
        ("a.c", ["c"], "'a.c' is named like a source file of C, .* call it 'a.h'"),
        ("a.onnx", ["torch"], "'a.onnx' is named like a file of format onnx.*call it 'a.pt'"),
    ],
)
def test_formats_that_contradict_themselves_or_the_file_are_refused(to, names, message):
    with pytest.raises(InputError, match=message):
        targets(Path(to), names)
