"""Reading rows that anybody may have written: a database is a file that people pass on.

SQLite stores whatever it is given in any column, and JSON may be any JSON. What moeash would not
have written is a :class:`~moeash.errors.StorageError` that says where it is.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
from moeash.errors import MoeashError, StorageError
from moeash.evaluation.outcome import Status
from moeash.study.storage.records import Stage, StoredStatus
from moeash.study.storage.team.roles import AuditRole, Role

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
    # What is joined under another name may be absent, and is for ``make`` to look at.
    columns = [
        column
        for column in query.selected_columns
        if isinstance(column, Column) and isinstance(column.table, Table)
    ]
    tables = sorted({column.table.name for column in columns})
    made: list[T] = []
    with understood(f"table {' and '.join(tables) or 'unknown'}"):
        for row in connection.execute(query):
            with understood(_place(columns, row)):
                _check(columns, row)
                made.append(make(row))
    return made


@contextmanager
def understood(place: str) -> Iterator[None]:
    """Turn what comes of values of a wrong kind into a StorageError that names their place."""
    try:
        yield
    except StorageError:
        raise
    except (MoeashError, *_FOREIGN) as error:
        raise StorageError(
            f"{place} of the database holds what moeash does not write: "
            f"{' '.join(str(error).split()) or type(error).__name__}; it was changed by something "
            "else, take it from a backup"
        ) from error


def _place(columns: list[Column[Any]], row: Row[Any]) -> str:
    keys = [
        f"{column.name} {row._mapping[column]!r:.40}" for column in columns if column.primary_key
    ]
    return f"row {', '.join(keys)} of table {columns[0].table.name}" if keys else "a row"


def _check(columns: list[Column[Any]], row: Row[Any]) -> None:
    for column in columns:
        value = row._mapping[column]
        if value is None and column.nullable:
            continue
        wanted = _wanted(column, value)
        if wanted is not None:
            raise ValueError(f"{column.name} is {value!r:.60} and should be {wanted}")
    status = row._mapping.get("status")
    if "size_bytes" in row._mapping:
        needed = _NEEDED.get(status, ())
        missing = [name for name in needed if name in row._mapping and row._mapping[name] is None]
        if missing:
            raise ValueError(f"it is {status} without {' and '.join(missing)}")


def checked(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a row to write, whose numbers reading will take.

    Raises:
        StorageError: a number is none: databases differ in what becomes of those.
    """
    for name, value in values.items():
        column = table.c[name]
        if value is None or not (isinstance(column.type, Float) or name == "reference"):
            continue
        wanted = _wanted(column, value)
        if wanted is not None:
            raise StorageError(
                f"cannot store {name} = {value!r:.60} in table {table.name}, it should be {wanted}"
            )
    return dict(values)


def _wanted(column: Column[Any], value: Any) -> str | None:
    """Return what a value should be; None when it is."""
    name = column.name
    choices = _CHOICES.get((column.table.name, name))
    if choices is not None:
        return None if value in choices else f"one of {', '.join(choices)}"
    if name == "objectives":
        sizes = get_args(SizeName)
        fits = isinstance(value, list) and all(size in sizes for size in value)
        return None if fits else f"a list of {', '.join(sizes)}"
    if name in ("reference", "sample"):
        has_gaps = name == "reference"
        fits = isinstance(value, list) and all(
            _is_number(v) or (v is None and has_gaps) for v in value
        )
        return None if fits else "a list of numbers"
    if name == "tags":
        fits = isinstance(value, list) and all(isinstance(tag, str) for tag in value)
        return None if fits else "a list of words"
    if name == "pins":
        fits = isinstance(value, list) and all(type(pin) is int and pin > 0 for pin in value)
        return None if fits else "a list of solutions' numbers"
    for kind, types, words in _TYPES:
        if isinstance(column.type, kind):
            is_right = isinstance(value, types) and (kind is Boolean or not isinstance(value, bool))
            return _range(name, kind, value) if is_right else words
    return None


def _range(name: str, kind: type[Any], value: Any) -> str | None:
    if kind is Integer and value < 0:
        return "a whole number from 0 on"
    if kind is Float and name in _MAY_BE_INFINITE:
        return "a number" if math.isnan(value) else None
    if kind is Float and not math.isfinite(value):
        return "a finite number"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
