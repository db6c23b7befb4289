"""The spec described by its own options: what ``moeash spec`` prints and the README shows."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Any

from moeash.options.docs import docstring
from moeash.options.kinds import Choice, Either, Kind, bare, joined
from moeash.options.tables import Table, Tagged, default_of, kinds
from moeash.study.spec.spec import StudySpec


@dataclass(frozen=True)
class SpecKey:
    """One key of a spec.

    Attributes:
        place: the key with its tables, as ``--set`` takes it.
        type: what it takes, in words.
        default: as TOML, ``required``, or empty when leaving it out has a meaning of its own.
        description: what it means.
    """

    place: str
    type: str
    default: str
    description: str


def spec_keys() -> list[SpecKey]:
    """Return every key of a file, tables and method options included, in the options' order."""
    return list(_keys(StudySpec, ""))


def describe_spec() -> str:
    """Return every key of a file with its type, default and meaning, as a Markdown table."""
    rows = [("key", "type", "default", "meaning"), ("---",) * 4]
    for key in spec_keys():
        default = f"`{key.default}`" if key.default not in ("", "required") else key.default
        rows.append((f"`{key.place}`", key.type, default, key.description))
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def documented(options: type[Any]) -> dict[str, str]:
    """Return the ``Attributes:`` section of a class's docstring by name."""
    found: dict[str, str] = {}
    name = ""
    for line in docstring(options).partition("Attributes:\n")[2].splitlines():
        if line.startswith(" " * 8) and name:
            found[name] += f" {line.strip()}"
        elif line.startswith(" " * 4) and ":" in line:
            name, _, meaning = line.strip().partition(": ")
            found[name] = meaning
        elif line:
            break
    return {key: meaning.rstrip(".").replace("``", "`") for key, meaning in found.items()}


def summary(options: type[Any]) -> str:
    """Return the first line of a class's docstring."""
    return docstring(options).partition("\n")[0].rstrip(".").replace("``", "`")


def file_fields(options: type[Any]) -> list["dataclasses.Field[Any]"]:
    """Return the fields a file may set, in order."""
    return [f for f in dataclasses.fields(options) if f.metadata.get("in_files", True)]


def table_of(kind: Kind) -> Table | Tagged | None:
    """Return the table a field holds, or may hold; None for a value."""
    if isinstance(kind, Either) and len(kind.kinds) == 1:
        kind = kind.kinds[0]
    return kind if isinstance(kind, Table | Tagged) else None


def _keys(options: type[Any], table: str, of: str = "") -> Iterator[SpecKey]:
    meanings, taken = documented(options), kinds(options)
    for field in file_fields(options):
        place, kind = joined(table, field.name), taken[field.name]
        inner = table_of(kind)
        if isinstance(inner, Table):
            yield from _keys(inner.options, place)
        elif isinstance(inner, Tagged):
            names = Choice(tuple(o.name for o in inner.options))
            default = json.dumps(inner.options[0].name)
            yield SpecKey(f"{place}.name", names.words, default, meanings[field.name])
            for option in inner.options:
                yield from _keys(option, place, f"{option.name}: ")
        else:
            yield SpecKey(place, bare(kind.words), _default(field), of + meanings[field.name])


def _default(field: "dataclasses.Field[Any]") -> str:
    value = default_of(field)
    if value is MISSING:
        return "required"
    return "" if value is None else json.dumps(value)  # TOML writes such values alike
