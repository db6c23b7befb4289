"""The packages that ONNX takes, which moeash itself does without."""

import importlib
from typing import Any

from moeash.errors import InputError


def needed(name: str) -> Any:
    """Import a package of the ``onnx`` extra.

    Raises:
        InputError: it is not installed; names the command that does it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        package = name.partition(".")[0]
        raise InputError(
            f"format onnx needs the package {package}, which is not installed; "
            "pip install 'moeash[onnx]'"
        ) from exc
