"""moeash: multi-objective evolutionary search that makes trained networks small by weight sharing.

``import moeash`` is light; torch, pymoo and the rest are loaded by the function that needs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from moeash.errors import (
    BackendError,
    CheckpointError,
    ContainerError,
    ContainerVersionError,
    CorruptContainerError,
    DataError,
    EvaluationError,
    ExportError,
    InputError,
    LaunchNotFoundError,
    MoeashError,
    NonFiniteWeightError,
    NothingMeetsError,
    PreparedFileError,
    RebuildMismatchError,
    RescalingError,
    SchemaError,
    SpecError,
    StorageError,
    StudyExistsError,
    StudyLockedError,
    StudyNotFoundError,
    TrainingError,
    UserCodeError,
)
from moeash.runtime.collecting import uncollected

if TYPE_CHECKING:
    from moeash.api.decoding import decompress
    from moeash.api.files import compress, export
    from moeash.api.one_file import compress_checkpoint, compress_spec
    from moeash.api.studies import run, search
    from moeash.codec.container import read_arrays as read
    from moeash.codec.inspection import inspect, verify
    from moeash.exports.files import load
    from moeash.study.comparing import compare
    from moeash.study.opening import open_storage, open_study
    from moeash.study.solution import Solution
    from moeash.study.study import Study

__version__ = "0.1.0"

HOMES = {
    "Solution": "moeash.study.solution",
    "Study": "moeash.study.study",
    "compare": "moeash.study.comparing",
    "compress": "moeash.api.files",
    "compress_checkpoint": "moeash.api.one_file",
    "compress_spec": "moeash.api.one_file",
    "decompress": "moeash.api.decoding",
    "export": "moeash.api.files",
    "inspect": "moeash.codec.inspection",
    "load": "moeash.exports.files",
    "open_storage": "moeash.study.opening",
    "open_study": "moeash.study.opening",
    "read": "moeash.codec.container:read_arrays",
    "run": "moeash.api.studies",
    "search": "moeash.api.studies",
    "verify": "moeash.codec.inspection",
}
"""Where each public name that is not an error is defined; loaded when it is first asked for."""

PACKAGES = ("nn",)
"""Packages that are public themselves; loaded when they are first asked for."""

__all__ = [
    "BackendError",
    "CheckpointError",
    "ContainerError",
    "ContainerVersionError",
    "CorruptContainerError",
    "DataError",
    "EvaluationError",
    "ExportError",
    "InputError",
    "LaunchNotFoundError",
    "MoeashError",
    "NonFiniteWeightError",
    "NothingMeetsError",
    "PreparedFileError",
    "RebuildMismatchError",
    "RescalingError",
    "SchemaError",
    "Solution",
    "SpecError",
    "StorageError",
    "Study",
    "StudyExistsError",
    "StudyLockedError",
    "StudyNotFoundError",
    "TrainingError",
    "UserCodeError",
    "compare",
    "compress",
    "compress_checkpoint",
    "compress_spec",
    "decompress",
    "export",
    "inspect",
    "load",
    "open_storage",
    "open_study",
    "read",
    "run",
    "search",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in PACKAGES:
        return importlib.import_module(f"moeash.{name}")
    if name not in HOMES:
        raise AttributeError(f"module 'moeash' has no attribute {name!r}")
    module, _, own_name = HOMES[name].partition(":")
    with uncollected():
        value = getattr(importlib.import_module(module), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES, *PACKAGES])
