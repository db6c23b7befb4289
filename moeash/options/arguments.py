"""Arguments of public functions, held against their annotations before anything is done."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from operator import index
from typing import Any, ParamSpec, TypeVar

from moeash.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    type: "a class",
    Callable: "a function",
    type(None): "None",
}
"""What kinds are called; any other by its own name."""

MANY: dict[Any, str] = {float: "numbers", str: "text", type: "classes"}
"""Likewise, in lists."""


@dataclass(frozen=True)
class Several:
    """A list, or another collection, of one kind; text is none."""

    of: Any


def checked(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function refuse arguments that are of none of the kinds their annotations name.

    Args:
        names: of the arguments that are checked. An annotation is a class, that of a function
            or a list, or a union of such.

    Raises:
        InputError: (the function that is made) says what came and what was needed.

    Example:
        >>> @checked("n")
        ... def doubled(n: int | None) -> int | None:
        ...     return n and 2 * n
        >>> doubled("3")
        Traceback (most recent call last):
        moeash.errors.InputError: n is '3', needed a whole number or None
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        kinds = {name: [*_alternatives(signature.parameters[name].annotation)] for name in names}

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError:
                return function(*args, **kwargs)  # which says of itself what it does not take
            for name in names:
                if name in given:
                    _check(name, given[name], kinds[name])
            return function(*args, **kwargs)

        return call

    return decorate


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the kinds of an annotation: classes, Callable, and lists of such."""
    if isinstance(annotation, TypeVar):
        annotation = annotation.__bound__
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _alternatives(part)
    elif origin in (Sequence, Collection):
        (item,) = typing.get_args(annotation)
        yield Several(typing.get_origin(item) or item)
    else:
        yield origin or (type(None) if annotation is None else annotation)


def _check(name: str, value: object, kinds: Sequence[Any]) -> None:
    if not any(_is(value, kind) for kind in kinds):
        words = [_called(kind) for kind in kinds]
        needed = " or ".join([", ".join(words[:-1])] * bool(words[:-1]) + words[-1:])
        raise InputError(f"{name} is {_shown(value)}, needed {needed}")


def _called(kind: Any) -> str:
    if isinstance(kind, Several):
        return f"a list of {MANY.get(kind.of, kind.of.__name__)}"
    return WORDS.get(kind, f"a {kind.__name__}")


def _shown(value: object) -> str:
    """Return a value in a line; what is printed in several is named by its kind."""
    try:
        text = repr(value)
    except Exception:  # whatever its own code raises; or an integer of too many digits
        text = "\n"
    return f"{text:.200}" if text.isprintable() else f"a {type(value).__name__}"


def _is(value: object, kind: Any) -> bool:
    if isinstance(kind, Several):
        is_list = isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)
        return is_list and all(_is(item, kind.of) for item in typing.cast(Any, value))
    if kind is Callable:
        return callable(value)
    if kind is bool:
        return isinstance(value, bool) or type(value).__name__ == "bool"  # of NumPy
    if kind in (int, float):
        return not isinstance(value, bool) and _is_number(value, kind)
    return isinstance(value, kind)


def _is_number(value: object, kind: type) -> bool:
    """Tell whether a value is a number that a machine can hold."""
    try:
        if kind is float:
            return isinstance(value, Real) and float(value) is not None
        return abs(index(value)) < 1 << 63  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        return False
