"""Specs as TOML."""

from collections.abc import Mapping
from typing import Any

import tomli_w


def toml_of(spec: Mapping[str, Any]) -> str:
    """Return a spec as a file says it; values that are None, which TOML has not, are left out.

    Raises:
        TypeError: a value is none of TOML's.
        ValueError: likewise.
    """
    return tomli_w.dumps(_without_nulls(spec))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_nulls(v) for v in value]
    return value
