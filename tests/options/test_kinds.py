import numpy as np
import pytest

from moeash.errors import InputError
from moeash.options.kinds import (
    Anything,
    Bounds,
    Choice,
    Either,
    Fixed,
    Flag,
    ListOf,
    Number,
    Pattern,
    TableOf,
    Text,
    shown,
)

WHOLE = Number(True, Bounds(1))
SHARE = Number(False, Bounds(0, 1, above=True))


@pytest.mark.parametrize(
    ("kind", "value", "fitted"),
    [
        (WHOLE, 1, 1),
        (SHARE, 1, 1.0),
        (SHARE, 0.5, 0.5),
        (Number(False), -3, -3.0),
        (Text(), "", ""),
        (Text(Pattern("[ab]+", "a or b", 3)), "aba", "aba"),
        (Flag(), False, False),
        (Choice((0, 4)), 4, 4),
        (ListOf(WHOLE), [1, 2], (1, 2)),
        (ListOf(WHOLE), (), ()),
        (Fixed((WHOLE, SHARE)), [3, 1], (3, 1.0)),
        (TableOf(SHARE), {"a": 1}, {"a": 1.0}),
        (Anything(), {"a": (1, [True, {"b": "x"}])}, {"a": [1, [True, {"b": "x"}]]}),
        (Either((WHOLE,), optional=True), None, None),
        (Either((WHOLE, Fixed((WHOLE, WHOLE))), optional=False), [1, 2], (1, 2)),
    ],
    ids=str,
)
def test_what_is_taken_becomes_its_own_type(kind, value, fitted):
    got = kind.fit(value, "key")
    assert got == fitted and type(got) is type(fitted)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (WHOLE, [0, -1, True, 1.0, "1", None, 2**63, 10**5000]),
        (SHARE, [0, 1.1, True, "1", float("nan"), float("inf"), 10**400]),
        (Number(False), [float("nan"), float("-inf"), 10**5000]),
        (Text(), [1, None, b"a", ["a"]]),
        (Text(Pattern("[ab]+", "a or b", 3)), ["", "abab", "c", "a\n"]),
        (Flag(), [0, 1, "true", None]),
        (Choice((0, 4)), [False, 4.0, "4", 8, None]),
        (Choice(("a", "b")), ["c", ["a"], {}]),
        (ListOf(WHOLE), ["ab", 1, {1: 2}, [0]]),
        (Fixed((WHOLE, SHARE)), [[1], [1, 1, 1], [1, 2], "ab"]),
        (TableOf(SHARE), [[], {"a": 2}, {1: 1}]),
        (Anything(), [None, {1: 2}, {1}, b"a", float("nan"), [[float("inf")]], 2**63]),
        (Either((WHOLE, Choice(("auto",))), optional=False), [None, 0, "automatic"]),
    ],
    ids=range(13),
)
def test_what_is_not_taken_is_refused_with_its_place_and_what_is_needed(kind, values):
    for value in values:
        with pytest.raises(InputError, match=r"^table\.key.* is .*, needed ") as refused:
            kind.fit(value, "table.key")
        assert len(str(refused.value)) < 400


def test_a_fitted_table_is_a_copy():
    given = {"a": {"b": [1]}}
    TableOf(Anything()).fit(given, "key")["a"]["b"].append(2)
    assert given == {"a": {"b": [1]}}


def test_values_nested_beyond_reason_are_refused():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="needed text, a finite number"):
        Anything().fit(deep, "key")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Number(True), "an integer"),
        (WHOLE, "an integer of at least 1"),
        (SHARE, "a number above 0 and at most 1"),
        (Choice(("a", "b", "c")), '"a", "b" or "c"'),
        (ListOf(WHOLE), "a list of integer of at least 1"),
        (TableOf(Anything()), "a table"),
        (TableOf(TableOf(Anything())), "a table of tables"),
        (
            Either((SHARE, Choice(("auto",))), optional=True),
            'a number above 0 and at most 1 or "',
        ),
    ],
)
def test_words_say_what_is_taken(kind, words):
    assert kind.words.startswith(words)


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), ("a", "'a'"), (10**5000, "a number of thousands of digits"), ([1], "[1]")],
    ids=range(4),
)
def test_values_are_shown_short_whatever_they_are(value, text):
    assert shown(value) == text
    assert len(shown("x" * 10_000)) < 200 and len(shown(list(range(10_000)))) < 200


class _Path:
    def __fspath__(self):
        return "a/b"


def test_numbers_of_numpy_paths_and_single_texts_are_taken_for_what_they_are():
    taken = [
        (Number(True), np.int32(3), 3, int),
        (Number(False), np.float32(0.5), 0.5, float),
        (Number(False), np.int64(2), 2.0, float),
        (Anything(), {"a": np.uint8(7)}, {"a": 7}, dict),
        (Text(), _Path(), "a/b", str),
        (ListOf(Text()), "0.weight", ("0.weight",), tuple),
        (ListOf(Choice(("a", "b"))), "a", ("a",), tuple),
    ]
    for kind, given, fitted, type_ in taken:
        assert kind.fit(given, "key") == fitted
        assert type(kind.fit(given, "key")) is type_
    for kind, given in [(Number(True), np.float64(3)), (Number(True), np.bool_(True)), (Text(), 3)]:
        with pytest.raises(InputError, match="key is"):
            kind.fit(given, "key")
