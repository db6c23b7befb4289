"""Kinds of values: what a key takes, checked, in words, and as JSON schema; nothing heavy here."""

import math
import numbers
import os
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moeash.errors import InputError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100

MAX_DEPTH = 20
"""Deepest nesting of tables and lists in values whose form is not fixed."""

INT_LIMIT = 1 << 63
"""Integers of TOML lie within 64 bits."""


@dataclass(frozen=True)
class Bounds:
    """The numbers a field takes, as an annotation: ``Annotated[int, Bounds(1)]``.

    Attributes:
        low: smallest.
        high: largest.
        above: whether ``low`` itself is too small.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False

    def hold(self, value: float) -> bool:
        """Tell whether a number lies within."""
        if self.low is not None and (value <= self.low if self.above else value < self.low):
            return False
        return self.high is None or value <= self.high

    @property
    def words(self) -> str:
        """The bounds in words, for people: what stands behind ``an integer``."""
        low = "" if self.low is None else f"{'above' if self.above else 'of at least'} {self.low:,}"
        high = "" if self.high is None else f"at most {self.high:,}"
        return " and ".join(filter(None, (low, high)))


@dataclass(frozen=True)
class Pattern:
    """The texts a field takes, as an annotation.

    Attributes:
        regex: matches all of a valid text.
        words: the same for people.
        longest: most characters.
    """

    regex: str
    words: str
    longest: int


def joined(*parts: object) -> str:
    """Return a key's place, ``table.key``."""
    return ".".join(str(part) for part in parts if part != "")


def shown(value: Any) -> str:
    """Return a value for a message, short whatever it is."""
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        return "a number of thousands of digits"


class Kind(ABC):
    """What a field takes."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The kind in words, for people, article included."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return JSON schema (2020-12)."""

    @abstractmethod
    def fit(self, value: Any, place: str) -> Any:
        """Return a value in its own type.

        Raises:
            InputError: it is not taken; one line with the place, what came and what was needed.
        """

    def plain(self, value: Any, *, defaults: bool) -> Any:
        """Return a fitted value as JSON has it; see :func:`moeash.options.tables.to_plain`."""
        return value

    def refusal(self, value: Any, place: str) -> InputError:
        """Return the error for a value that is not taken."""
        return InputError(f"{place} is {shown(value)}, needed {self.words}")


@dataclass(frozen=True)
class Number(Kind):
    """Integers, or finite floats, within bounds."""

    whole: bool
    bounds: Bounds = Bounds()

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return f"{'an integer' if self.whole else 'a number'} {self.bounds.words}".strip()

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        out: dict[str, Any] = {"type": "integer" if self.whole else "number"}
        low, high = self.bounds.low, self.bounds.high
        if low is not None:
            out["exclusiveMinimum" if self.bounds.above else "minimum"] = low
        if high is not None:
            out["maximum"] = high
        return out

    def fit(self, value: Any, place: str) -> Any:
        """Return a number; those of NumPy are numbers too."""
        value = _plain_number(value)
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if not number or (self.whole and not isinstance(value, int)):
            raise self.refusal(value, place)
        if isinstance(value, int) and not -INT_LIMIT <= value < INT_LIMIT:
            raise self.refusal(value, place)
        fitted = value if self.whole else float(value)
        if not math.isfinite(fitted) or not self.bounds.hold(fitted):
            raise self.refusal(value, place)
        return fitted


@dataclass(frozen=True)
class Text(Kind):
    """Texts, of a pattern or any."""

    pattern: Pattern | None = None

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        if self.pattern is None:
            return "text"
        return f"text of 1 to {self.pattern.longest} {self.pattern.words}"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        if self.pattern is None:
            return {"type": "string"}
        return {
            "type": "string",
            "pattern": f"^{self.pattern.regex}$",
            "maxLength": self.pattern.longest,
        }

    def fit(self, value: Any, place: str) -> Any:
        """Return a text; a path is one."""
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str):
            raise self.refusal(value, place)
        pattern = self.pattern
        if pattern is not None and not (
            len(value) <= pattern.longest and re.fullmatch(pattern.regex, value)
        ):
            raise self.refusal(value, place)
        return value


@dataclass(frozen=True)
class Flag(Kind):
    """True or false."""

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return "true or false"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        return {"type": "boolean"}

    def fit(self, value: Any, place: str) -> Any:
        """Return a bool."""
        if not isinstance(value, bool):
            raise self.refusal(value, place)
        return value


@dataclass(frozen=True)
class Choice(Kind):
    """One of some values."""

    values: tuple[Any, ...]

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        *most, last = (f'"{v}"' if isinstance(v, str) else str(v) for v in self.values)
        return f"{', '.join(most)} or {last}" if most else last

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        return {"enum": list(self.values)}

    def fit(self, value: Any, place: str) -> Any:
        """Return one of the values."""
        if not any(type(value) is type(valid) and value == valid for valid in self.values):
            raise self.refusal(value, place)
        return value


@dataclass(frozen=True)
class ListOf(Kind):
    """Any number of values of one kind; a tuple in Python. One text stands for a list of it."""

    each: Kind

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return f"a list of {bare(self.each.words)}"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        return {"type": "array", "items": self.each.schema()}

    def fit(self, value: Any, place: str) -> Any:
        """Return a tuple."""
        if isinstance(value, str) and isinstance(self.each, Text | Choice):
            return (self.each.fit(value, place),)
        if not isinstance(value, list | tuple):
            raise self.refusal(value, place)
        return tuple(self.each.fit(item, f"{place}[{i}]") for i, item in enumerate(value))

    def plain(self, value: Any, *, defaults: bool) -> Any:
        """Return a list."""
        return [self.each.plain(item, defaults=defaults) for item in value]


@dataclass(frozen=True)
class Fixed(Kind):
    """A list of fixed length, such as ``[low, high]``; a tuple in Python."""

    items: tuple[Kind, ...]

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return "[" + ", ".join(bare(item.words) for item in self.items) + "]"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        n = len(self.items)
        items = [item.schema() for item in self.items]
        return {"type": "array", "prefixItems": items, "minItems": n, "maxItems": n}

    def fit(self, value: Any, place: str) -> Any:
        """Return a tuple."""
        if not isinstance(value, list | tuple) or len(value) != len(self.items):
            raise self.refusal(value, place)
        return tuple(
            kind.fit(item, f"{place}[{i}]")
            for i, (kind, item) in enumerate(zip(self.items, value, strict=True))
        )

    def plain(self, value: Any, *, defaults: bool) -> Any:
        """Return a list."""
        return list(value)


@dataclass(frozen=True)
class TableOf(Kind):
    """A table with keys of the user's."""

    each: Kind

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        free = isinstance(self.each, Anything)
        return "a table" if free else f"a table of {bare(self.each.words)}s"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        return {"type": "object", "additionalProperties": self.each.schema()}

    def fit(self, value: Any, place: str) -> Any:
        """Return a dict of its own."""
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            raise self.refusal(value, place)
        return {key: self.each.fit(item, f"{place}.{key}") for key, item in value.items()}


@dataclass(frozen=True)
class Anything(Kind):
    """What TOML and JSON both have: text, finite numbers, true and false, lists, tables."""

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return "text, a finite number, true, false, a list or a table"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        return {}

    def fit(self, value: Any, place: str) -> Any:
        """Return a copy with lists for tuples."""
        return self._fit(value, place, MAX_DEPTH)

    def _fit(self, value: Any, place: str, depth: int) -> Any:
        if depth and isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {k: self._fit(v, f"{place}.{k}", depth - 1) for k, v in value.items()}
        if depth and isinstance(value, list | tuple):
            return [self._fit(v, f"{place}[{i}]", depth - 1) for i, v in enumerate(value)]
        value = _plain_number(value)
        if isinstance(value, int) and not -INT_LIMIT <= value < INT_LIMIT:
            raise self.refusal(value, place)
        if not isinstance(value, str | int | float):
            raise self.refusal(value, place)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.refusal(value, place)
        return value


@dataclass(frozen=True)
class Either(Kind):
    """A value of the first kind that takes it; ``optional``: or none."""

    kinds: tuple[Kind, ...]
    optional: bool

    @property
    def words(self) -> str:
        """The kind in words, for people, who leave a key out to say none."""
        return " or ".join(kind.words for kind in self.kinds)

    def schema(self) -> dict[str, Any]:
        """Return JSON schema."""
        schemas = [kind.schema() for kind in self.kinds]
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def fit(self, value: Any, place: str) -> Any:
        """Return a value of one of the kinds."""
        if value is None and self.optional:
            return None
        if len(self.kinds) == 1:
            return self.kinds[0].fit(value, place)
        for kind in self.kinds:
            try:
                return kind.fit(value, place)
            except InputError:
                continue
        raise self.refusal(value, place)

    def plain(self, value: Any, *, defaults: bool) -> Any:
        """Return a value as JSON has it."""
        if value is None:
            return None
        if len(self.kinds) == 1:
            return self.kinds[0].plain(value, defaults=defaults)
        return list(value) if isinstance(value, tuple) else value


def _plain_number(value: Any) -> Any:
    """Return a number of NumPy or another library as Python's own; anything else as it is."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def bare(words: str) -> str:
    """Return words without their article."""
    return re.sub(r"^an? ", "", words)
