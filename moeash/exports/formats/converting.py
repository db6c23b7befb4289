"""A ``.moeash`` file as a whole, in another format."""

import os
import sys
from pathlib import Path

from torch import nn

from moeash.codec.container import read
from moeash.data.unlabelled import Given, Unlabelled
from moeash.exports.formats.base import Runnable, Source, metadata_of
from moeash.exports.formats.names import FormatName
from moeash.exports.formats.table import TABLE
from moeash.exports.runnable import runnable


def convert(
    path: str | os.PathLike[str],
    to: Path,
    name: FormatName,
    *,
    network: nn.Module | None,
    inputs: Given | None,
    max_bytes: int | None,
) -> tuple[str, ...]:
    """Write a file in another format; return the names of its tensors in state order.

    Arguments and errors are those of :func:`moeash.exports.decompressing.decompress`.
    """
    container = read(path, max_bytes=max_bytes)
    weights = container.shared
    runs: Runnable | None = None
    if network is not None and inputs is not None:
        runs = runnable(network, weights, Unlabelled(inputs, at_most=sys.maxsize, network=network))
    noted = {f"note_{key}": text for key, text in container.notes.items()}
    source = Source(weights, metadata_of(weights, **noted), network=runs)
    with TABLE[name].placing(source, to):
        pass
    return tuple(tensor.name for tensor in weights.tensors)
