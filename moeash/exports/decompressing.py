"""From a ``.moeash`` file to a file of another format.

Safetensors is written without torch and without either file in memory: a checkpoint may be larger
than the machine.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moeash.core.progress import Progress, silent
from moeash.errors import InputError
from moeash.exports.formats.names import WITH_NETWORK, targets
from moeash.exports.streaming import stream
from moeash.files import as_path, check_target
from moeash.names import contained

if TYPE_CHECKING:
    from torch import nn

    from moeash.data.unlabelled import Given


@dataclass(frozen=True)
class Decompressed:
    """A decoded network that was written.

    Attributes:
        path: the file.
        size_bytes: ``stat`` of it.
        names: of the tensors, in the order of the network's state.
    """

    path: str
    size_bytes: int
    names: tuple[str, ...]


@contained()
def decompress(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    format: str | None = None,
    network: "nn.Module | None" = None,
    inputs: "Given | None" = None,
    max_bytes: int | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Decompressed:
    """Write the decoded tensors of a ``.moeash`` file in another format.

    Arguments and errors are those of :func:`moeash.decompress`, which shows people how far it is.

    Args:
        path: the file.
        to: target.
        format: what to write.
        network: for onnx.
        inputs: for onnx.
        max_bytes: most bytes that the decoded network may take.
        force: replace an existing file.
        progress: hears how far the work is, where it may take long.
    """
    asked = [] if format is None else [format]
    ((name, target),) = targets(as_path(to), asked, default="safetensors")
    if name == "moeash":
        raise InputError(
            f"{os.fspath(path)!r} is a .moeash file already; name the format it shall have"
        )
    if name in WITH_NETWORK and (network is None or inputs is None):
        raise InputError(
            f"format {name} holds the computation too; give network= and inputs= (on the command "
            "line --spec with the study's TOML file)"
        )
    if name not in WITH_NETWORK and (network is not None or inputs is not None):
        raise InputError(
            f"format {name} holds the weights alone; leave out network and inputs (on the command "
            "line --spec)"
        )
    check_target(target, force=force)
    if name == "safetensors":
        names = stream(path, target, max_bytes=max_bytes, progress=progress)
    else:
        from moeash.exports.formats.converting import convert

        names = convert(path, target, name, network=network, inputs=inputs, max_bytes=max_bytes)
    return Decompressed(os.fspath(target), target.stat().st_size, names)
