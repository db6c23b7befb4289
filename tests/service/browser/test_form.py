"""The form of a study: what is typed or ticked in a field is what the TOML says, for every key."""

import tomllib

import pytest

from moeash.study.spec.schema import json_schema
from tests.service.browser.served import part, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def leaves(schema, path=""):
    """Yield path and schema of fields, but of methods' names and where there is one value."""
    for name, inner in schema["properties"].items():
        at = f"{path}.{name}" if path else name
        if inner.get("properties"):
            yield from leaves(inner, at)
        elif not ("oneOf" in inner or "const" in inner or len(inner.get("enum", "..")) == 1):
            yield at, inner


def sample(schema):
    """Return a value that a field takes and that is not its default."""
    if "anyOf" in schema:
        return sample(schema["anyOf"][0])
    if "enum" in schema:
        return next(value for value in reversed(schema["enum"]) if value != schema.get("default"))
    if "prefixItems" in schema:
        return [sample(inner) for inner in schema["prefixItems"]]
    if "items" in schema:
        inner = schema["items"]
        words = [w for w in inner.get("enum", []) if w not in schema.get("default", [])]
        return schema.get("default", []) + words[::-1] if words else [sample(inner)] * 2
    if schema["type"] == "object":
        return {"a": 1, "b": "x, y"}
    kinds = {"boolean": not schema.get("default"), "string": "some.thing", "number": 0.625}
    return kinds.get(schema["type"], 7)


def enter(page, path, schema, value):
    """Type or tick a value as a person does."""
    field = part(page, f"field-{path}")
    if schema.get("type") == "boolean":
        field.click()
    elif "enum" in schema:
        field.select_option(label=str(value))
    elif "enum" in schema.get("items", {}):
        for word in value[len(schema.get("default", [])) :]:
            part(page, f"field-{path}.{word}").click()
    elif "prefixItems" in schema:
        for i, each in enumerate(value):
            page.locator(f".pair:has([data-test='field-{path}']) input").nth(i).fill(str(each))
    elif schema.get("type") == "object":
        one = ", ".join(f"{key} = {inner!r}" for key, inner in value.items())
        nested = isinstance(schema["additionalProperties"], dict) and path == "data.splits"
        (part(page, f"field-{path}.search") if nested else field).fill(one)
    else:
        field.fill(", ".join(map(str, value)) if isinstance(value, list) else str(value))


def put(tree, path, value):
    """Put a value into nested dictionaries."""
    *tables, key = path.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
    tree[key] = {"search": value} if path == "data.splits" else value


def test_every_key_of_every_method_goes_from_the_form_to_the_text_and_back(served, page, inspect):
    page.goto(f"{served.url}/new")
    part(page, "verdict").get_by_text("A valid study").wait_for()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    expected = {}

    def written():
        return tomllib.loads(part(page, "toml").input_value())

    def use(toml):
        part(page, "toml").fill(toml)
        name = tomllib.loads(toml).get("name", "")
        until(part(page, "field-name").input_value, lambda text: text == name, "not in the form")

    def enter_all(fields):
        for path, inner in fields:
            value = sample(inner)
            enter(page, path, inner, value)
            put(expected, path, value)
        until(written, lambda spec: spec == expected, f"the TOML is not {expected}")

    use("")
    schema = json_schema()
    enter_all(leaves(schema))
    inspect(page, "new-filled")
    for method in schema["properties"]["method"]["oneOf"]:
        name = method["properties"]["name"]["const"]
        part(page, "field-method.name").select_option(name)
        expected["method"] = {} if name == "uniform" else {"name": name}
        enter_all(leaves(method, "method"))
        text = part(page, "toml").input_value()
        use("")
        use(text)
        expected["name"] = f"again-{name}"
        part(page, "field-name").fill(expected["name"])
        until(written, lambda spec: spec == expected, f"the form has not kept {expected}")


def test_values_with_commas_are_a_list_where_one_may_be(served, page, inspect):
    page.goto(f"{served.url}/new")
    part(page, "verdict").get_by_text("A valid study").wait_for()
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    typed = {
        ("refine", "solutions"): ("0.05, 0.01", [0.05, 0.01]),
        ("distill", "solutions"): (".05,", [0.05]),
        ("backend", "workers"): ("[1, 4]", [1, 4]),
        ("tune", "solutions"): ("3", 3),
    }
    for (table, key), (text, value) in typed.items():
        part(page, f"field-{table}.{key}").fill(text)
        until(
            lambda table=table: tomllib.loads(part(page, "toml").input_value()).get(table, {}),
            lambda written, key=key, value=value: written.get(key) == value,
            f"{table}.{key} = {text}",
        )
