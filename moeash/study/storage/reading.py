"""Reading rows that anybody may have written: a database is a file that people pass on.

SQLite stores whatever it is given in any column, and JSON may be any JSON. What moeash would not
have written is a :class:`~moeash.errors.StorageError` that says where it is.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar, get_args

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    Row,
    Select,
    String,
    Table,
)

from moeash.core.solutions.objectives import SizeName
from moeash.core.solutions.variables import variable_of
from moeash.errors import InputError, MoeashError, StorageError
from moeash.evaluation.outcome import Status
from moeash.study.storage.access.roles import AuditRole, Role
from moeash.study.storage.records import Stage, StoredStatus

T = TypeVar("T")

_FOREIGN = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What values of a wrong kind lead to."""

_TYPES: tuple[tuple[type[Any], tuple[type, ...], str], ...] = (
    (Boolean, (bool,), "true or false"),
    (Float, (float, int), "a number"),
    (Integer, (int,), "a whole number"),
    (LargeBinary, (bytes,), "bytes"),
    (JSON, (dict,), "a JSON object"),
    (String, (str,), "text"),
)

_SIZES = ("size_bytes", "entries", "bits_per_weight")
_NEEDED: Mapping[Any, tuple[str, ...]] = {
    "complete": ("metric", "bound", *_SIZES),
    "stopped": ("bound", *_SIZES),
}
"""What evaluations of a status are read for, and never written without."""

_MAY_BE_INFINITE = ("bound", "floor", "wanted_floor")
_CHOICES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("studies", "status"): get_args(StoredStatus),
    ("evaluations", "status"): get_args(Status),
    ("held", "status"): get_args(Status),
    ("counts", "stage"): get_args(Stage),
    ("counts", "status"): get_args(Status),
    ("evaluations", "stage"): get_args(Stage),
    ("launches", "kind"): ("run", "export"),
    ("launches", "state"): ("queued", "running", "ended"),
    ("tokens", "role"): get_args(Role),
    ("sessions", "role"): get_args(Role),
    ("audit", "role"): get_args(AuditRole),
}


def read_rows(connection: Connection, query: Select[Any], make: Callable[[Row[Any]], T]) -> list[T]:
    """Return what ``make`` makes of each row of a query.

    Raises:
        StorageError: a row holds what moeash never writes; says where.
    """
    rules = _Rules(query)
    made: list[T] = []
    with understood(rules.table):
        for row in connection.execute(query):
            try:
                rules.check(row)
                made.append(make(row))
            except StorageError:
                raise
            except (MoeashError, *_FOREIGN) as error:
                raise _not_ours(rules.place(row), error) from error
    return made


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Turn what comes of values of a wrong kind into a StorageError that names their place."""
    try:
        yield
    except StorageError:
        raise
    except (MoeashError, *_FOREIGN) as error:
        raise _not_ours(place, error) from error


def _not_ours(place: str, error: Exception) -> StorageError:
    return StorageError(
        f"{place} of the database holds what moeash does not write: "
        f"{' '.join(str(error).split()) or type(error).__name__}; it was changed by something "
        "else, take it from a backup"
    )


class _Rules:
    """What the rows of a query must be, looked up once: there may be thousands of rows.

    Attributes:
        table: the tables of the query, in words.
    """

    def __init__(self, query: Select[Any]) -> None:
        # What is joined under another name may be absent, and is for whoever makes the records.
        self._columns = [
            (at, column)
            for at, column in enumerate(query.selected_columns)
            if isinstance(column, Column) and isinstance(column.table, Table)
        ]
        tables = sorted({column.table.name for _, column in self._columns})
        self.table = f"table {' and '.join(tables) or 'unknown'}"
        self._rules = [(at, c.name, c.nullable, _rule(c)) for at, c in self._columns]
        named = {column.name: at for at, column in self._columns}
        self._status = named.get("status") if "size_bytes" in named else None
        self._needed = {
            status: [(name, named[name]) for name in names if name in named]
            for status, names in _NEEDED.items()
        }

    def check(self, row: Row[Any]) -> None:
        """Make sure that a row holds what moeash writes.

        Raises:
            ValueError: it does not.
        """
        for at, name, nullable, rule in self._rules:
            value = row[at]
            if value is None and nullable:
                continue
            wanted = rule(value)
            if wanted is not None:
                raise ValueError(f"{name} is {value!r:.60} and should be {wanted}")
        if self._status is not None:
            status = row[self._status]
            missing = [name for name, at in self._needed.get(status, ()) if row[at] is None]
            if missing:
                raise ValueError(f"it is {status} without {' and '.join(missing)}")

    def place(self, row: Row[Any]) -> str:
        """Return which row it is, in words."""
        keys = [f"{c.name} {row[at]!r:.40}" for at, c in self._columns if c.primary_key]
        return f"row {', '.join(keys)} of {self.table}" if keys else "a row"


def checked(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row to write, whose numbers reading will take.

    Raises:
        StorageError: a number is none: databases differ in what becomes of those.
    """
    for name, value in values.items():
        column = table.c[name]
        if value is None or not (isinstance(column.type, Float) or name == "reference"):
            continue
        wanted = _rule(column)(value)
        if wanted is not None:
            raise StorageError(
                f"cannot store {name} = {value!r:.60} in table {table.name}, it should be {wanted}"
            )
    return dict(values)


Rule = Callable[[Any], str | None]
"""Takes a value and returns what it should be; None when it is."""


@cache
def _rule(column: Column[Any]) -> Rule:
    """Return what the values of a column must be."""
    name = column.name
    choices = _CHOICES.get((column.table.name, name))
    if choices is not None:
        return _unless(lambda value: value in choices, f"one of {', '.join(choices)}")
    if name == "objectives":
        sizes = get_args(SizeName)
        return _all(lambda size: size in sizes, f"a list of {', '.join(sizes)}")
    if name == "reference":
        return _all(lambda v: v is None or _is_number(v), "a list of numbers")
    if name == "sample":
        return _all(_is_number, "a list of numbers")
    if name == "space":
        return _all(_is_variable, "a list of variables with bounds")
    if name == "tags":
        return _all(lambda tag: isinstance(tag, str), "a list of words")
    if name == "pins":
        return _all(lambda pin: type(pin) is int and pin > 0, "a list of solutions' numbers")
    for kind, types, words in _TYPES:
        if isinstance(column.type, kind):
            return _of_type(types, words, _range_of(name, kind), is_bool=kind is Boolean)
    return lambda value: None


def _unless(fits: Callable[[Any], bool], words: str) -> Rule:
    return lambda value: None if fits(value) else words


def _all(fits: Callable[[Any], bool], words: str) -> Rule:
    return _unless(lambda value: isinstance(value, list) and all(map(fits, value)), words)


def _of_type(types: tuple[type, ...], words: str, in_range: Rule, *, is_bool: bool) -> Rule:
    def rule(value: Any) -> str | None:
        is_right = isinstance(value, types) and isinstance(value, bool) == is_bool
        return in_range(value) if is_right else words

    return rule


def _range_of(name: str, kind: type[Any]) -> Rule:
    if kind is Integer:
        return _unless(lambda value: value >= 0, "a whole number from 0 on")
    if kind is Float and name in _MAY_BE_INFINITE:
        return _unless(lambda value: not math.isnan(value), "a number")
    if kind is Float:
        return _unless(math.isfinite, "a finite number")
    return lambda value: None


def _is_variable(plain: Any) -> bool:
    try:
        variable = variable_of(plain)
        return _is_number(variable.low) and _is_number(variable.high)
    except (InputError, KeyError, TypeError, AttributeError):
        return False


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
