"""Tables of options: frozen dataclasses whose annotations say what each key takes.

Every concern keeps its options beside what they configure, as a subclass of :class:`Options`. A
field's annotation is read once into a :class:`~moeash.options.kinds.Kind`, which checks values,
puts its demand into words for messages and documentation, and describes itself as JSON schema.
Nothing heavy is imported here or by any module of options.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from types import MappingProxyType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from moeash.errors import InputError
from moeash.names import nearest
from moeash.options.kinds import (
    Anything,
    Bounds,
    Choice,
    Either,
    Fixed,
    Flag,
    Kind,
    ListOf,
    Number,
    Pattern,
    TableOf,
    Text,
    joined,
    shown,
)

T = TypeVar("T")

MOST_PROBLEMS = 20
"""Problems of one table that a message tells."""

Count = Annotated[int, Bounds(1)]
Positive = Annotated[float, Bounds(0, above=True)]
NotNegative = Annotated[float, Bounds(0)]


class Options:
    """Base of one table of options.

    Making one checks every field against its annotation, then :meth:`check`. A value takes the
    annotated type: lists become tuples, integers become floats where floats are taken.
    """

    table: ClassVar[str] = ""
    """Name of the table, in front of its keys in messages."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        for key, kind in kinds(type(self)).items():
            try:
                value = kind.fit(getattr(self, key), joined(self.table, key))
                object.__setattr__(self, key, value)
            except InputError as error:
                problems += problems_of(error)
        refuse(problems)
        self.check()

    def check(self) -> None:
        """Refuse values that do not go together."""


@dataclass(frozen=True)
class Table(Kind):
    """Options of one class."""

    options: type[Any]

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return "a table"

    def schema(self) -> dict[str, Any]:
        """Return JSON schema of its keys, without descriptions and defaults."""
        return {"type": "object"}

    def fit(self, value: Any, place: str) -> Any:
        """Return the options."""
        if isinstance(value, self.options):
            return value
        if not isinstance(value, Mapping):
            raise self.refusal(value, place)
        return read(self.options, value, place)

    def plain(self, value: Any, *, defaults: bool) -> Any:
        """Return a dict."""
        return to_plain(value, defaults=defaults)


@dataclass(frozen=True)
class Tagged(Kind):
    """Options of one of several classes, told apart by ``name``; the first is the default."""

    options: tuple[type[Any], ...]

    @property
    def words(self) -> str:
        """The kind in words, for people."""
        return "a table with name = " + Choice(tuple(o.name for o in self.options)).words

    def schema(self) -> dict[str, Any]:
        """Return JSON schema of its keys, without descriptions and defaults."""
        return {"type": "object"}

    def fit(self, value: Any, place: str) -> Any:
        """Return the options of the class that ``name`` says."""
        if isinstance(value, self.options):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            raise self.refusal(value, place)
        by_name = {options.name: options for options in self.options}
        rest = dict(value)
        name = rest.pop("name", self.options[0].name)
        if not isinstance(name, str) or name not in by_name:
            raise InputError(f"{place}: no {place} {shown(name)}; {nearest(str(name), by_name)}")
        return read(by_name[name], rest, place, of=f" of {place} {name!r}")

    def plain(self, value: Any, *, defaults: bool) -> Any:
        """Return a dict with the name."""
        return {"name": value.name, **to_plain(value, defaults=defaults)}


_KINDS: dict[type[Any], Mapping[str, Kind]] = {}


def kinds(options: type[Any]) -> Mapping[str, Kind]:
    """Return what each field of a dataclass takes, in order."""
    if options not in _KINDS:
        hints = get_type_hints(options, include_extras=True)
        fields = dataclasses.fields(options)
        found = {field.name: kind_of(hints[field.name]) for field in fields}
        _KINDS[options] = MappingProxyType(found)
    return _KINDS[options]


def kind_of(annotation: Any) -> Kind:
    """Return what an annotation takes."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, demand = args
        if isinstance(demand, Pattern):
            return Text(demand)
        return Number(inner is int, demand)
    if origin is Literal:
        return Choice(args)
    if origin in (Union, UnionType):
        given = [arg for arg in args if arg is not NoneType]
        if len(given) > 1 and all(dataclasses.is_dataclass(arg) for arg in given):
            return Tagged(tuple(given))
        return Either(tuple(map(kind_of, given)), len(given) < len(args))
    if origin is tuple and args[-1] is Ellipsis:
        return ListOf(kind_of(args[0]))
    if origin is tuple:
        return Fixed(tuple(map(kind_of, args)))
    if origin in (dict, Mapping):
        return TableOf(kind_of(args[1]))
    if dataclasses.is_dataclass(annotation):
        assert isinstance(annotation, type)
        return Table(annotation)
    simple: dict[Any, Kind] = {
        int: Number(True),
        float: Number(False),
        str: Text(),
        bool: Flag(),
        Any: Anything(),
    }
    return simple[annotation]


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """Return a field's default; ``MISSING`` where the field is required."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def read(options: type[T], given: Mapping[str, Any], place: str = "", *, of: str = "") -> T:
    """Return options from plain values.

    Args:
        options: a dataclass.
        given: its keys and their values, as TOML or JSON has them.
        place: the table the keys are in.
        of: added to the message about an unknown key.

    Raises:
        InputError: every problem, each with its place.
    """
    fields = {f.name: f for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    taken = kinds(options)
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, value in given.items():
        at = joined(place, key)
        if key not in fields:
            problems.append(f"unknown key {shown(at)}{of}; {nearest(str(key), fields)}")
            continue
        try:
            values[key] = taken[key].fit(value, at)
        except InputError as error:
            problems += problems_of(error)
    for key, field in fields.items():
        if key not in given and default_of(field) is MISSING:
            problems.append(f"{joined(place, key)!r} is missing")
    refuse(problems)
    return options(**values)


def refuse(problems: Sequence[str], error: type[InputError] = InputError, where: str = "") -> None:
    """Raise an error of all problems in one line; do nothing where there are none."""
    if problems:
        more = len(problems) - MOST_PROBLEMS
        end = f"; and {more} more" if more > 0 else ""
        refused = error(where + "; ".join(problems[:MOST_PROBLEMS]) + end)
        refused.problems = tuple(problems[:MOST_PROBLEMS])
        raise refused


def problems_of(error: InputError) -> Sequence[str]:
    """Return what an error refuses, one by one."""
    return error.problems or (str(error),)


def to_plain(options: Any, *, defaults: bool = False) -> dict[str, Any]:
    """Return options as JSON has them; :func:`read` makes equal ones of it.

    Args:
        options: a dataclass.
        defaults: include what is at its default.
    """
    out = {}
    taken = kinds(type(options))
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if defaults or value != default_of(field):
            out[field.name] = taken[field.name].plain(value, defaults=defaults)
    return out
