from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from moeash.errors import InputError
from moeash.options.tables import MOST_PROBLEMS, Count, Options, Positive, read, to_plain


@dataclass(frozen=True)
class Inner(Options):
    table: ClassVar[str] = "inner"

    low: Count = 1
    high: Count = 9

    def check(self) -> None:
        if self.low > self.high:
            raise InputError("inner.low is above inner.high")


@dataclass(frozen=True)
class Round(Options):
    table: ClassVar[str] = "shape"
    name: ClassVar[str] = "round"

    radius: Positive = 1.0


@dataclass(frozen=True)
class Square(Options):
    table: ClassVar[str] = "shape"
    name: ClassVar[str] = "square"

    side: Positive


@dataclass(frozen=True, kw_only=True)
class Outer(Options):
    title: str
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    shape: Round | Square = field(default_factory=Round)
    colours: tuple[Literal["red", "blue"], ...] | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)


def test_options_made_in_python_are_checked_and_take_their_types():
    outer = Outer(title="a", colours=["red"], shape={"name": "square", "side": 2})
    assert outer.colours == ("red",)
    assert outer.shape == Square(side=2.0) and type(outer.shape.side) is float
    with pytest.raises(InputError, match=r"inner\.low is 0, .*; inner\.high is 'x', needed"):
        Inner(low=0, high="x")
    with pytest.raises(InputError, match="above"):
        Inner(low=10)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "'title' is missing"),
        ({"title": "a", "tilte": 1}, "unknown key 'tilte'; nearest: 'title'"),
        ({"title": "a", "inner": {"lwo": 1}}, r"unknown key 'inner\.lwo'; nearest: 'low'"),
        ({"title": "a", "maybe": {"low": 0}}, r"maybe\.low is 0, needed an integer"),
        ({"title": "a", "inner": {"low": 10}}, "inner.low is above"),
        ({"title": "a", "shape": {"name": "rond"}}, "no shape 'rond'; nearest: 'round'"),
        ({"title": "a", "shape": {"name": 3}}, "no shape 3; valid: 'round', 'square'"),
        ({"title": "a", "shape": {"name": "square"}}, r"'shape\.side' is missing"),
        ({"title": "a", "shape": {"side": 1}}, r"key 'shape\.side' of shape 'round'"),
        ({"title": "a", "shape": []}, r"shape is \[\], needed a table with name = .round. or"),
    ],
)
def test_plain_values_that_do_not_fit_are_refused_where_they_are(plain, message):
    with pytest.raises(InputError, match=message):
        read(Outer, plain)


def test_a_message_tells_a_bounded_number_of_problems():
    with pytest.raises(InputError, match=r"; and 981 more$") as refused:
        read(Outer, {f"key{i}": 1 for i in range(1000)})
    assert str(refused.value).count("unknown key") == MOST_PROBLEMS


@pytest.mark.parametrize(
    ("plain", "stored"),
    [
        ({"title": "a"}, {"title": "a"}),
        ({"title": "a", "inner": {"low": 1}}, {"title": "a"}),
        ({"title": "a", "maybe": {}}, {"title": "a", "maybe": {}}),
        ({"title": "a", "shape": {"name": "round"}}, {"title": "a"}),
        (
            {"title": "a", "shape": {"radius": 2}, "colours": []},
            {"title": "a", "shape": {"name": "round", "radius": 2.0}, "colours": []},
        ),
    ],
)
def test_only_what_differs_from_the_defaults_is_stored_and_it_comes_back(plain, stored):
    outer = read(Outer, plain)
    assert to_plain(outer) == stored
    assert read(Outer, stored) == outer
    assert read(Outer, to_plain(outer, defaults=True)) == outer
