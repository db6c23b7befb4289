import sys

import pytest

from moeash import names
from moeash.errors import DataError, InputError


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "users_own.py").write_text(
        "from moeash.errors import DataError\n"
        "number = 3\n"
        "def make(*, size=1):\n"
        "    if size < 0:\n"
        "        raise RuntimeError('size is\\nnegative')\n"
        "    if size == 0:\n"
        "        raise DataError('nothing there')\n"
        "    return [0] * size\n"
        "class Makers:\n"
        "    make = staticmethod(make)\n"
    )
    (tmp_path / "users_broken.py").write_text("import no_such_module_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users_own", None)


def test_similar_names_come_first_and_others_are_listed():
    assert names.nearest("resnet2", ["mnist", "resnet20"]) == "nearest: 'resnet20'"
    assert names.nearest("zzz", ["a", "b"]) == "valid: 'a', 'b'"
    assert names.nearest("zzz", map(str, range(100))).endswith("and 88 more")
    assert names.nearest("zzz", []) == "there are none"


def test_a_factory_is_called_with_its_options(user_module):
    assert names.call_factory("users_own:make", {"size": 2}) == [0, 0]
    assert names.call_factory("users_own:Makers.make", {"size": 1}) == [0]


@pytest.mark.parametrize(
    "reference, options, message",
    [
        ("users_own", {}, "does not have the form"),
        ("users_own:make it", {}, "does not have the form"),
        ("users_own:mak", {}, r"has no 'mak'.*nearest: 'make'"),
        ("users_own:number", {}, "is int, needed a function"),
        ("users_missing:make", {}, "cannot import 'users_missing'.*PYTHONPATH"),
        ("users_broken:make", {}, "no_such_module_anywhere"),
        (
            "users_own:make",
            {"size": -1},
            r"users_own:make\(size=-1\) raised RuntimeError: size is n",
        ),
        ("users_own:make", {"sise": 1}, r"users_own:make\(sise=1\) raised TypeError"),
    ],
)
def test_a_reference_that_fails_is_reported_in_one_line(user_module, reference, options, message):
    with pytest.raises(DataError, match=message) as caught:
        names.call_factory(reference, options, error=DataError)
    assert "\n" not in str(caught.value)


def test_our_own_errors_pass_through_a_factory_unchanged(user_module):
    with pytest.raises(DataError, match=r"^nothing there$"):
        names.call_factory("users_own:make", {"size": 0})


def test_unknown_options_are_refused_with_the_nearest():
    def function(positional, *, resize=None):
        raise AssertionError("must not be called")

    names.check_options(function, {"resize": 1}, what="it")
    with pytest.raises(InputError, match="it has no option 'resise'; nearest: 'resize'"):
        names.check_options(function, {"resise": 1}, what="it")
    with pytest.raises(InputError, match="'positional'"):
        names.check_options(function, {"positional": 1}, what="it")
