"""``moeash spec``: what a study's TOML file may say."""

import sys

from moeash.cli.show import JsonOption, print_json, table


def spec(json_: JsonOption = False) -> None:
    """Describe every key of a study's TOML file; with --json its JSON schema."""
    if json_:
        from moeash.study.spec.schema import json_schema

        print_json(json_schema())
        return
    from moeash.study.spec.reference import describe_spec, spec_keys

    if not sys.stdout.isatty():
        print(describe_spec(), end="")
        return
    table(
        "keys of a study",
        [("key", "left"), ("type", "left"), ("default", "left"), ("meaning", "left")],
        [[key.place, key.type, key.default, key.description] for key in spec_keys()],
    )
