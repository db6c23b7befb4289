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

if TYPE_CHECKING:
    from moeash.api.files import compress, export
    from moeash.api.studies import run, search
    from moeash.codec.container import read_arrays as read
    from moeash.codec.inspection import inspect, verify
    from moeash.exports.decompressing import decompress
    from moeash.exports.files import load_into
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
    "decompress": "moeash.exports.decompressing",
    "export": "moeash.api.files",
    "inspect": "moeash.codec.inspection",
    "load_into": "moeash.exports.files",
    "open_storage": "moeash.study.opening",
    "open_study": "moeash.study.opening",
    "read": "moeash.codec.container:read_arrays",
    "run": "moeash.api.studies",
    "search": "moeash.api.studies",
    "verify": "moeash.codec.inspection",
}
"""Where each public name that is not an error is defined; loaded when it is first asked for."""

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
    "decompress",
    "export",
    "inspect",
    "load_into",
    "open_storage",
    "open_study",
    "read",
    "run",
    "search",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'moeash' has no attribute {name!r}")
    module, _, own_name = HOMES[name].partition(":")
    value = getattr(importlib.import_module(module), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *HOMES])
