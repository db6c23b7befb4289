"""Specs as TOML texts."""

from collections.abc import Mapping
from typing import Any

import tomli_w

from moeash.errors import InputError


def toml_of(spec: Mapping[str, Any]) -> str:
    """Return plain values as TOML; keys whose value is null are left out.

    Raises:
        InputError: a value has no words in TOML.
    """
    try:
        return tomli_w.dumps(_without_nulls(spec))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the spec cannot be written as TOML: {error}") from error


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value
