import copy
import tomllib
from pathlib import Path

import jsonschema
import pytest

from moeash.errors import SpecError
from moeash.methods.options import OPTIONS
from moeash.study.spec.reading import parse_spec
from moeash.study.spec.reference import documented, file_fields, spec_keys, summary
from moeash.study.spec.schema import json_schema
from tests.digits import BASE, merged

STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.toml"))


def valid(plain):
    return jsonschema.Draft202012Validator(json_schema()).is_valid(plain)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_is_valid(path):
    plain = tomllib.loads(path.read_text())
    assert valid(plain) and parse_spec(plain)


@pytest.mark.parametrize(
    "changes",
    [
        {"sede": 1},
        {"seed": -1},
        {"name": "a/b"},
        {"network": {"source": 1}},
        {"network": {"source": None}},
        {"search": {"population": 1}},
        {"codec": {"coder": "zip"}},
        {"method": {"name": "unifrom"}},
        {"method": {"centr": "mean"}},
        {"method": {"k": [1, 2, 3]}},
        {"method": {"name": "gpfq", "k": [1, 2]}},
        {"method": {"name": "feedback", "damping": "automatic"}},
        {"backend": {"kind": "ray", "workers": [-1, 4]}},
        {"budget": {"wall_time_s": 0}},
        {"version": 2},
    ],
    ids=str,
)
def test_what_the_schema_refuses_is_refused_when_it_is_read(changes):
    plain = merged(BASE, changes)
    assert not valid(plain)
    with pytest.raises(SpecError):
        parse_spec(plain)


def test_a_form_has_every_methods_options_with_docs_defaults_and_bounds():
    method = json_schema()["properties"]["method"]
    assert method["discriminator"] == {"propertyName": "name"}
    by_name = {branch["properties"]["name"]["const"]: branch for branch in method["oneOf"]}
    assert set(by_name) == set(OPTIONS)
    for name, branch in by_name.items():
        assert branch["description"] == summary(OPTIONS[name])
        options = copy.copy(branch["properties"])
        del options["name"]
        docs = documented(OPTIONS[name])
        in_files = {field.name for field in file_fields(OPTIONS[name])}
        assert {key: schema["description"] for key, schema in options.items()} == {
            key: docs[key] for key in in_files
        }
    rate = by_name["feedback"]["properties"]["rate"]
    assert rate["default"] == [0.02, 0.1]
    assert rate["prefixItems"] == [{"type": "number", "exclusiveMinimum": 0}] * 2


def test_the_schema_has_the_keys_of_the_table():
    def places(schema, table=""):
        for key, inner in schema["properties"].items():
            branches = inner.get("oneOf", [inner])
            if not any("properties" in branch for branch in branches):
                yield table + key
                continue
            for branch in branches:
                yield from places(branch, f"{table}{key}.")

    assert set(places(json_schema())) == {key.place for key in spec_keys()}
