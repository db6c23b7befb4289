"""moeash: multi-objective evolutionary search that makes trained networks small by weight sharing.

``import moeash`` is light; torch, pymoo and the rest are loaded by the function that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moeash.api import compress, export, run, search
    from moeash.codec.container import read_arrays as read
    from moeash.exports.files import decompress, load_into
    from moeash.study.opening import open_storage, open_study

__version__ = "0.1.0"

_HOMES = {
    "compress": "moeash.api",
    "decompress": "moeash.exports.files",
    "export": "moeash.api",
    "load_into": "moeash.exports.files",
    "open_storage": "moeash.study.opening",
    "open_study": "moeash.study.opening",
    "read": "moeash.codec.container:read_arrays",
    "run": "moeash.api",
    "search": "moeash.api",
}

__all__ = [
    "compress",
    "decompress",
    "export",
    "load_into",
    "open_storage",
    "open_study",
    "read",
    "run",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moeash' has no attribute {name!r}")
    module, _, own_name = _HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
