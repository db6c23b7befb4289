"""Two questions about a file on disk: is it whole, and where do its bytes go?"""

import os
from dataclasses import dataclass

from moeash.codec.container import decode, encode, read_bytes
from moeash.codec.size import SizeReport, size
from moeash.core.codebook import SharedWeights
from moeash.errors import CorruptContainerError


@dataclass(frozen=True)
class VerifyReport:
    """A file that was found whole.

    Attributes:
        path: the file.
        size_bytes: its bytes.
        fingerprint: of the network in it, see
            :meth:`moeash.core.codebook.SharedWeights.fingerprint`.
        coder: its entropy coder.
        version: format version of the file.
    """

    path: str
    size_bytes: int
    fingerprint: str
    coder: str
    version: int


def verify(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> VerifyReport:
    """Check a file: checksum, structure, decoding, and that it encodes to the same bytes again.

    Args:
        path: a ``.moeash`` file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file cannot be read, is damaged, or is not the file of its network.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> moeash.verify(path).coder
        'ans'
    """
    data = read_bytes(path)
    container = decode(data, max_bytes=max_bytes)
    again = encode(container.shared, coder=container.coder, notes=container.notes)
    if again != data:
        raise CorruptContainerError(
            f"{os.fspath(path)!r} decodes, but its network encodes to other bytes; it was not "
            "written by this version of moeash"
        )
    fingerprint = container.shared.fingerprint()
    return VerifyReport(os.fspath(path), len(data), fingerprint, container.coder, container.version)


def inspect(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> SizeReport:
    """Return the bytes of every part and tensor of a file.

    Args:
        path: a ``.moeash`` file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: the file cannot be read, is damaged, or is not the file of its network.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> report = moeash.inspect(path)
        >>> report.n_shared, report.n_kept, report.n_entries
        (2048, 32, 4)
        >>> [tensor.name for tensor in report.tensors]
        ['weight', 'bias']
    """
    return open_and_size(path, max_bytes=max_bytes)[1]


def open_and_size(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> tuple[SharedWeights, SizeReport]:
    """Return the network of a file, and what :func:`inspect` returns.

    Args:
        path: a ``.moeash`` file.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Raises:
        ContainerError: as :func:`inspect`.
    """
    data = read_bytes(path)
    container = decode(data, max_bytes=max_bytes)
    report = size(container.shared, coder=container.coder, notes=container.notes)
    if report.total != len(data):
        raise CorruptContainerError(
            f"{os.fspath(path)!r} has {len(data)} bytes, but its network takes {report.total}; it "
            "was not written by this version of moeash"
        )
    return container.shared, report
