"""Format ``torch``: a ``state_dict`` that ``torch.load(path, weights_only=True)`` reads.

Tied tensors stay tied. What the file says of its origin is the attribute ``moeash`` of the
dictionary, so that ``load_state_dict`` takes it as it is.
"""

from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import ClassVar

import torch
from torch import Tensor

from moeash.errors import ExportError
from moeash.exports.formats.base import SingleFile, Source
from moeash.exports.formats.names import FormatName
from moeash.exports.formats.tensors import check_tensors
from moeash.networks.writing.decoding import tensors_of


class TorchFile(SingleFile):
    """``.pt`` files."""

    name: ClassVar[FormatName] = "torch"

    def write(self, source: Source, path: Path, to: Path) -> None:
        """As :meth:`SingleFile.write`."""
        state: OrderedDict[str, Tensor] = OrderedDict(tensors_of(source.weights))
        state.moeash = dict(source.metadata)  # type: ignore[attr-defined]
        with path.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as exc:
                file.flush()  # raises what torch was told by the system, where it still holds
                raise ExportError(
                    f"torch cannot write {str(to)!r}: {str(exc).splitlines()[0]}; choose a folder "
                    "that has room"
                ) from exc

    def check(self, source: Source, path: Path) -> None:
        """As :meth:`SingleFile.check`."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, OSError, EOFError, KeyError, ValueError, UnpicklingError) as exc:
            raise ExportError(f"the torch file written cannot be read: {exc}") from exc
        check_tensors(source.weights, state, "the torch file")
        if state.moeash != dict(source.metadata):
            raise ExportError("the torch file written holds other metadata")
