"""A decoded network in a file of another format. Nothing here loads torch."""

import os
from typing import TYPE_CHECKING

from moeash.api.showing import Shown, doing, listening
from moeash.exports import decompressing
from moeash.exports.decompressing import Decompressed
from moeash.options.arguments import checked

if TYPE_CHECKING:
    from torch import nn

    from moeash.data.unlabelled import Given


@checked("format", "max_bytes", "force", "progress")
def decompress(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    format: str | None = None,
    network: "nn.Module | None" = None,
    inputs: "Given | None" = None,
    max_bytes: int | None = None,
    force: bool = False,
    progress: Shown = True,
) -> Decompressed:
    """Write the decoded tensors of a ``.moeash`` file in another format.

    What was written is read back and compared before the file gets its name. ``safetensors`` is
    written tensor by tensor, so that neither file is in memory where the coder is ANS, and holds
    tied tensors once under each name; ``torch`` is a ``state_dict`` for
    ``torch.load(weights_only=True)``; ``c`` is a header with packed indices and C99 functions;
    ``onnx`` holds the computation too. bfloat16 tensors stay what they are in all of them.

    Args:
        path: the file.
        to: target.
        format: ``safetensors``, ``torch``, ``onnx`` or ``c``; default: the one that ``to`` is named
            like, or else safetensors.
        network: for onnx: the network the weights are of; it is not changed.
        inputs: for onnx: what the network takes, a tensor ``(n, ...)`` or more as for
            :func:`search`; the file is run on all of them and compared with torch.
        max_bytes: most bytes that the decoded network may take; default the larger of 128 MiB and
            1,024 times the file, since a file of a few bytes can describe a huge network.
        force: replace an existing file, once everything has been verified.
        progress: who hears of it.

    Raises:
        ContainerError: the file is not readable.
        InputError: the target exists, or the format is unknown, or needs a network, inputs or a
            package.
        CheckpointError: the weights are not of this network; lists the tensors that differ.
        ExportError: the target cannot be written, or the format cannot hold the tensors; an
            existing file is kept.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> written = moeash.decompress(path, path + ".safetensors")
        >>> from safetensors.numpy import load_file
        >>> sorted(load_file(path + ".safetensors")) == sorted(written.names) == ["bias", "weight"]
        True
    """
    with listening(progress) as listen:
        return decompressing.decompress(
            path,
            to,
            format=format,
            network=network,
            inputs=inputs,
            max_bytes=max_bytes,
            force=force,
            progress=doing(listen),
        )
