"""The spec described by its own models: what ``moeash spec`` prints and the README shows."""

import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from moeash.methods.options import OPTIONS
from moeash.study.spec import StudySpec


@dataclasses.dataclass(frozen=True)
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
    """Return every key of a spec, tables and method options included, in the models' order."""
    return list(_keys(StudySpec, ""))


def describe_spec() -> str:
    """Return every key of a spec with its type, default and meaning, as a Markdown table."""
    rows = [("key", "type", "default", "meaning"), ("---",) * 4]
    for key in spec_keys():
        default = f"`{key.default}`" if key.default not in ("", "required") else key.default
        rows.append((f"`{key.place}`", key.type, default, key.description))
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def _keys(model: type[BaseModel], table: str) -> Iterator[SpecKey]:
    for name, field in model.model_fields.items():
        place = f"{table}{name}"
        inner = _table(field.annotation)
        if inner is not None:
            yield from _keys(inner, f"{place}.")
        elif place == "method":
            yield from _method_keys()
        else:
            default = "required" if field.is_required() else _default(field)
            yield SpecKey(place, _words(field.annotation), default, field.description or "")


def _method_keys() -> Iterator[SpecKey]:
    yield SpecKey(
        "method.name", _alternatives(list(OPTIONS)), '"uniform"', "how weights are shared"
    )
    for name, options in OPTIONS.items():
        documented = _attributes(options)
        for field in dataclasses.fields(options):
            default = "" if field.default is None else _toml(field.default)
            meaning = f"{name}: {documented[field.name]}"
            yield SpecKey(f"method.{field.name}", _words(field.type), default, meaning)


def _attributes(documented: Any) -> dict[str, str]:
    """Return the ``Attributes:`` section of a class's docstring by name."""
    text = inspect.getdoc(documented) or ""
    found: dict[str, str] = {}
    name = ""
    for line in text.partition("Attributes:\n")[2].splitlines():
        if line.startswith(" " * 8) and name:
            found[name] += f" {line.strip()}"
        elif line.startswith(" " * 4) and ":" in line:
            name, _, meaning = line.strip().partition(": ")
            found[name] = meaning
        elif line:
            break
    return {key: meaning.rstrip(".") for key, meaning in found.items()}


def _table(annotation: Any) -> type[BaseModel] | None:
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def _default(field: FieldInfo) -> str:
    return "" if field.default is None else _toml(field.default)


def _toml(value: Any) -> str:
    """Return a default as one would write it in a spec; JSON and TOML agree on such values."""
    return json.dumps(value)


WORDS = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    Any: "anything",
}


def _words(annotation: Any) -> str:
    """Return a type as a person says it."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _alternatives(args)
    if origin in (Union, UnionType):
        return " or ".join(_words(arg) for arg in args if arg is not NoneType)
    if origin is tuple and args[-1:] == (Ellipsis,):
        return f"list of {_words(args[0])}"
    if origin is tuple:
        return "[" + ", ".join(_words(arg) for arg in args) + "]"
    if origin in (dict, Mapping):
        inner = _words(args[1])
        return "table" if inner == "anything" else f"table of {inner}"
    return WORDS[annotation]


def _alternatives(values: Sequence[Any]) -> str:
    *most, last = map(json.dumps, values)
    return f"{', '.join(most)} or {last}" if most else last
