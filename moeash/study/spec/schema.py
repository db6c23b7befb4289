"""The spec as JSON schema, complete enough to make a form of it.

Every key has its type and bounds, a ``description`` and, where there is one, its ``default``. A
method is one of several objects told apart by ``name``.
"""

from dataclasses import MISSING
from typing import Any

from moeash.options.kinds import Kind
from moeash.options.tables import Table, Tagged, default_of, kinds
from moeash.study.spec.reference import documented, file_fields, summary, table_of
from moeash.study.spec.spec import StudySpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return JSON schema (2020-12) of a spec."""
    return {"$schema": DIALECT, "title": "moeash study", **_object(StudySpec)}


def _object(options: type[Any]) -> dict[str, Any]:
    meanings, taken = documented(options), kinds(options)
    properties: dict[str, Any] = {}
    required = []
    for field in file_fields(options):
        schema = _schema(taken[field.name])
        schema["description"] = meanings[field.name]
        default = default_of(field)
        if default is MISSING:
            required.append(field.name)
        elif default is not None and table_of(taken[field.name]) is None:
            schema["default"] = taken[field.name].plain(default, defaults=True)
        properties[field.name] = schema
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _schema(kind: Kind) -> dict[str, Any]:
    table = table_of(kind)
    if isinstance(table, Table):
        return _object(table.options)
    if isinstance(table, Tagged):
        return {
            "type": "object",
            "oneOf": [_tagged(o, default=o is table.options[0]) for o in table.options],
            "discriminator": {"propertyName": "name"},
        }
    return kind.schema()


def _tagged(options: type[Any], *, default: bool) -> dict[str, Any]:
    schema = _object(options)
    name = {"const": options.name, "description": "which options these are"}
    if default:
        name["default"] = options.name
    else:
        schema["required"] = ["name", *schema["required"]]
    schema["properties"] = {"name": name, **schema["properties"]}
    return {"title": options.name, "description": summary(options), **schema}
