"""Every exception moeash raises on purpose, as one tree.

::

    MoeashError
    ├── InputError (also ValueError)      the caller passed something we refuse; nothing changed
    │   ├── NonFiniteWeightError          NaN or infinity in a weight tensor
    │   ├── RescalingError                rows that cannot be rescaled without changing the outputs
    │   ├── SpecError                     a study specification that does not say what to do
    │   ├── CheckpointError               a checkpoint that is unreadable or does not fit
    │   ├── DataError                     an evaluation set that is unreadable or unusable
    │   └── NothingMeetsError             no solution is within the limits of a pick
    ├── ContainerError                    bytes that are not a .moeash file we can read
    │   ├── CorruptContainerError         truncated, altered or hostile bytes
    │   └── ContainerVersionError         written by a newer moeash
    ├── EvaluationError                   one candidate failed; the study goes on
    ├── TrainingError                     a training did not come to its end
    ├── UserCodeError                     the user's code tried to end the process
    ├── BackendError                      the place it ran is gone, not the candidate; retry
    ├── StorageError                      the database refused or lost a write
    │   ├── StudyNotFoundError (KeyError) no study of that name
    │   ├── StudyExistsError              that name is taken by a different specification
    │   ├── StudyLockedError              another process works on that study
    │   ├── LaunchNotFoundError (KeyError) no launch of that number
    │   └── SchemaError                   the database is older or newer than this moeash
    ├── PreparedFileError                 a stored preparation that is damaged or of another moeash
    ├── RebuildMismatchError              a stored solution does not rebuild to the same weights
    └── ExportError                       the file would not decode to the same weights, or
                                          cannot be written

Messages are one line: what came, what was needed, what to do. Lower case, no full stop.
"""

from functools import partial
from typing import Any


class MoeashError(Exception):
    """Root of everything moeash raises on purpose."""


class InputError(MoeashError, ValueError):
    """The caller passed something we refuse; nothing was changed.

    Attributes:
        problems: what is refused, one by one, where the message tells several in a line.
    """

    problems: tuple[str, ...] = ()


class NonFiniteWeightError(InputError):
    """A weight tensor holds NaN or infinity, so no bin can own it."""

    def __init__(self, name: str, *, count: int, size: int) -> None:
        super().__init__(
            f"parameter {name!r} has {count} non-finite weights of {size}; "
            f"load a clean checkpoint or keep it out of sharing with exclude=[{name!r}]"
        )
        self.name = name
        self.count = count
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers pickle what they raise; keyword-only fields need this to survive the trip.
        return partial(type(self), self.name, count=self.count, size=self.size), ()


class RescalingError(InputError):
    """Something that was not seen reads a layer, so its rows cannot be rescaled."""


class SpecError(InputError):
    """A study specification that does not say what to do."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or that does not fit the network."""


class DataError(InputError):
    """An evaluation set that cannot be read, or whose content is not usable."""


class NothingMeetsError(InputError):
    """No solution of a study is within the limits of a pick."""


class ContainerError(MoeashError):
    """The bytes are not a ``.moeash`` file this version can read."""


class CorruptContainerError(ContainerError):
    """The bytes are truncated, altered, or claim absurd sizes."""


class ContainerVersionError(ContainerError):
    """The file was written by a newer moeash."""


class EvaluationError(MoeashError):
    """One candidate failed; the study goes on."""


class TrainingError(MoeashError):
    """A training did not come to its end; what it had saved last is good."""


class UserCodeError(MoeashError):
    """Code that the user brought raised what ends a process, such as ``SystemExit``."""


class BackendError(MoeashError):
    """The place a candidate ran is gone, not the candidate; retry elsewhere."""


class StorageError(MoeashError):
    """The database refused or lost a write."""


class StudyNotFoundError(StorageError, KeyError):
    """No study of that name is stored."""

    __str__ = Exception.__str__  # KeyError shows repr(message), which reads badly in a terminal


class StudyExistsError(StorageError):
    """The name is taken by a study with a different specification."""


class StudyLockedError(StorageError):
    """Another process works on the study."""


class LaunchNotFoundError(StorageError, KeyError):
    """No launch of that number is stored."""

    __str__ = Exception.__str__


class SchemaError(StorageError):
    """The database is older or newer than this moeash."""


class PreparedFileError(MoeashError):
    """A stored preparation cannot be read, is damaged, or is of another version of moeash."""


class RebuildMismatchError(MoeashError):
    """A stored solution does not rebuild to the same weights."""


class ExportError(MoeashError):
    """The file would not decode to the same weights, or cannot be written."""
