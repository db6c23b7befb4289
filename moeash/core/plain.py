"""Plain values as JSON that every reader takes."""

import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON. Infinities and NaN, for which JSON has no words, become null.

    Args:
        value: of plain values.
        indent: spaces a level; None writes one line.

    Example:
        >>> json_text({"drop": float("nan"), "sizes": (1, 2.5)})
        '{"drop": null, "sizes": [1, 2.5]}'
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_finite(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
