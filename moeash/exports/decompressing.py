"""From a ``.moeash`` file to a file of another format."""

import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from moeash.codec.container import read as read_container
from moeash.data.unlabelled import Given, Unlabelled
from moeash.errors import InputError
from moeash.exports.formats.base import Runnable, Source, metadata_of
from moeash.exports.formats.names import targets
from moeash.exports.formats.table import TABLE
from moeash.exports.runnable import runnable
from moeash.files import as_path


def decompress(
    path: str | Path,
    to: str | Path,
    *,
    format: str | None = None,
    network: nn.Module | None = None,
    inputs: Given | None = None,
    max_bytes: int | None = None,
) -> dict[str, NDArray[Any]]:
    """Write the decoded tensors of a ``.moeash`` file in another format, and return them.

    What was written is read back and compared before the file gets its name. ``safetensors`` holds
    tied tensors once under each name; ``torch`` is a ``state_dict`` for
    ``torch.load(weights_only=True)``; ``c`` is a header with packed indices and C99 functions;
    ``onnx`` holds the computation too. bfloat16 tensors stay what they are in all of them; the
    arrays that are returned hold them as float32.

    Args:
        path: the file.
        to: target; an existing file is replaced only after everything has been verified.
        format: ``safetensors``, ``torch``, ``onnx`` or ``c``; default: the one that ``to`` is named
            like, or else safetensors.
        network: for onnx: the network the weights are of; it is not changed.
        inputs: for onnx: what the network takes, a tensor ``(n, ...)`` or more as for
            :func:`search`; the file is run on all of them and compared with torch.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file is not readable.
        InputError: the format is unknown, or needs a network, inputs or a package.
        CheckpointError: the weights are not of this network; lists the tensors that differ.
        ExportError: the target cannot be written, or the format cannot hold the tensors; an
            existing file is kept.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> arrays = moeash.decompress(path, path + ".safetensors")
        >>> from safetensors.numpy import load_file
        >>> sorted(load_file(path + ".safetensors")) == sorted(arrays) == ["bias", "weight"]
        True
    """
    names = [] if format is None else [format]
    ((name, target),) = targets(as_path(to), names, default="safetensors")
    if name == "moeash":
        raise InputError(f"{str(path)!r} is a .moeash file already; name the format it shall have")
    chosen = TABLE[name]
    if chosen.needs_network and (network is None or inputs is None):
        raise InputError(
            f"format {name} holds the computation too; give network= and inputs= (on the command "
            "line --spec with the study's TOML file)"
        )
    if not chosen.needs_network and (network is not None or inputs is not None):
        raise InputError(
            f"format {name} holds the weights alone; leave out network and inputs (on the command "
            "line --spec)"
        )
    container = read_container(path, max_bytes=max_bytes)
    weights = container.shared
    runs: Runnable | None = None
    if chosen.needs_network:
        assert network is not None and inputs is not None
        runs = runnable(network, weights, Unlabelled(inputs, at_most=sys.maxsize, network=network))
    noted = {f"note_{key}": text for key, text in container.notes.items()}
    source = Source(weights, metadata_of(weights, **noted), network=runs)
    with chosen.placing(source, target):
        pass
    return weights.decoded()
