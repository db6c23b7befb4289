"""The ``.moeash`` file, version 1: a network with shared weights, exactly.

All integers are little-endian. *varint* is LEB128 in its shortest form, below 2**63. A reader MUST
refuse a file that breaks any rule below; the sections follow each other without a hole and fill
the file, so nothing can hide in it and no two readers can see two files. Nothing is ever executed.

File::

    4   magic      8D 4D 53 48 ("MSH"; the high bit shows transfers that are not 8-bit clean)
    2   version    u16, 1; a reader MUST refuse any other, a newer one whatever follows
    1   coder      0 ANS, 1 Huffman, 2 adaptive beside ANS, 3 the same with streams in units
    1   salt       rotation of the ANS coder's slots; 0 for Huffman
    .   D, M, P    three varints: bytes of directory, model, payload; adaptive coder: a fourth, A
    D   directory  names, kinds, dtypes, shapes, notes
    M   model      codebooks and frequency tables, a bit string
    P   payload    indices and kept bytes, one coded stream
    A   adaptive   indices the adaptive coder took, one stream a codebook
    8   checksum   BLAKE2b with a digest of 8 bytes over everything before it

**Directory.** One byte, 0 or 1, then the following plain or as one bzip2 stream, whichever is
smaller. What a stream unpacks to MUST be at most ``2**16 + 256 * D`` bytes, and ``2**24``. Columns,
because equal things next to each other compress well:

* varint number of notes; for each, sorted by key: key, value (varint bytes, UTF-8);
* varint number of tensors T, in the order of the network's state;
* T bytes of kinds: 0 tied, 1 shared, 2 + c kept and stored with dtype c;
* for every tensor not tied, one byte: its dtype in the network. Dtypes are numbered by
  :data:`moeash.codec.entries.DTYPES`; shared ones MUST be floats; bfloat16 MUST NOT be stored (it
  travels as float32); a stored dtype MUST NOT have values that the one in the network has not;
* names, UTF-8, each as bytes shared with the front of the name before, bytes shared with its back,
  new bytes between: three columns of T varints (front, back, new), then all the new bytes;
* not tied: T varints of dimensions, then all their sizes;
* shared: varint position of the codebook;
* tied: varint position of an earlier tensor with the same memory;
* for every kept float32 or bfloat16 stored as int8 or int16, one byte e from 1 to 227: each element
  is its integer times ``2**(e - 127)``.

**Model.** Most significant bit first, padded with zeros to a byte. ``EGk(u)`` is the Exp-Golomb
code of order k: with ``v = u + 2**k`` of ``b`` bits, ``b - 1 - k`` zeros and then ``v``. Signed
values are zigzagged (0, -1, 1, -2, ... are 0, 1, 2, 3, ...).

* ``EG0`` number of codebooks; for each ``EG4(entries - 1)`` and one bit. 0: entries as 32 bits of
  float32. 1: five bits k, then per entry ``EGk`` of its signed distance, in representable float32
  values (-0.0 lies just below 0.0), from a prediction: 0, the entry before, then
  ``2 * e[i-1] - e[i-2]`` in float64, clipped to finite float32 and rounded. Entries MUST be finite
  and strictly increasing.
* Adaptive coder only: one bit whether trellises follow. Then, before the tables of each codebook's
  pool, for every shared tensor with weights one bit. 0: it is a source of the pool. 1: the adaptive
  coder took it, and where trellises follow two more bits say which one its indices, counted from
  the zero entry, follow: 0 none, else that of 1 four, 2 eight, 3 sixteen states
  (:mod:`moeash.core.trellis`); they MUST NOT be 0 for all. The zero entry of a codebook is the one
  nearest 0, of two the lower.
* Then the tables of every pool. A pool is the sources over one alphabet: the shared tensors of one
  codebook (not empty, in order), codebook by codebook; then, for every stored dtype by number and
  every byte of its elements from the lowest, the kept tensors, grouped by the last part of their
  names in order of appearance, each group one source of 256 symbols. A pool without sources has
  no bits. A pool of several begins with one bit: whether a table for the whole pool follows.
  Then every source: with a pool table 0 uses it, 10 own table, 110 flat, 111 constant; without one
  0 own table, 10 flat, 11 constant. A constant is followed by its symbol in ``ceil(log2 alphabet)``
  bits and takes no payload. A flat table has all symbols at level 1 (in Huffman the first
  ``2**ceil(log2 alphabet) - alphabet`` at level 2).
* A table: ANS only, two bits resolution r; one bit predictor p; two bits order k; first and last
  present symbol in ``ceil(log2 alphabet)`` bits each; one bit whether symbols between are missing,
  and if so alternately ``EG1(present - 1)`` and ``EG1(missing - 1)`` until the last is reached.
  Levels, 1 to 512, of present symbols: ``EG3(level - 1)``, then ``EGk`` of each signed step, less
  half the step before it (rounded down) if p is 1. There MUST NOT be more symbols than elements in
  the sources that may use the table.

**Payload.** All symbols of the first source, then of the next, as ranks among the present symbols
of its table; a table with a single symbol takes no payload. P MUST be what the ``payload_bytes`` of
:mod:`moeash.codec.static.rates` or :mod:`moeash.codec.static.huffman` says of these symbols; before
any is decoded a reader refuses what is below that of as many of the cheapest.

* ANS: frequencies f out of 2**24 by :func:`moeash.codec.static.rates.frequencies` from levels of
  ``2**-r`` octaves. The slots of a table follow each other as its ranks do, rotated: that of rank j
  of n stands at place ``(j + salt) % n`` and begins at c, the sum of the f before that place. A
  symbol is the one in whose slot ``state % 2**24`` lies; then the state becomes
  ``f * (state >> 24) + state % 2**24 - c`` and, if that is below 2**32 and the stack has a word of
  32 bits left, whose last one is on top, ``state * 2**32 + word``.
  Of fewer than 2**20 symbols the stack is the payload less its zero bytes at the end, completed
  with zeros to words. The upper and lower half of the one state are the first words, as far as
  there are any; it MUST end as 0, without words left.
  More symbols come in parts of 2**20, of which the last may have fewer. Each has a stack and four
  states that take turns; their halves are the first words. They MUST be 2**32 at least, and end as
  that, without words left. The payload has the stack of the last part first, that of the first
  last, then zeros, and at its end, from the first part on, the words of each stack as u32.
* Huffman: a level is ``longest + 1 - length``, where ``2**longest``, longest at most 31, MUST be
  the sum of all ``2**(level - 1)``. Codes are canonical: by length, then by rank, each one more
  than the one before; most significant bit first, zero-padded to a byte.

**Adaptive.** For every codebook with tensors that the adaptive coder took, a varint of bytes and
the stream of their indices as :mod:`moeash.codec.adaptive.coder` specifies it. Where streams are in
units, a byte before the varint is the shift: magnitudes are in units of ``2**shift``; they MUST NOT
be 0 for all.

Kept elements are little-endian; a group's elements are those of its tensors, one after another.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moeash.codec import codebooks, directory, streams
from moeash.codec.bits import BitReader, BitWriter, Cursor
from moeash.codec.demand import default_limit, demand_of
from moeash.codec.entries import MAX_CODEBOOKS
from moeash.codec.layout import CHECKSUM_BYTES, PREFIX_BYTES, lay_out
from moeash.codec.pools import CODERS, Coder, coding_of
from moeash.core.codebook import SharedWeights
from moeash.errors import (
    ContainerError,
    ContainerVersionError,
    CorruptContainerError,
    ExportError,
)
from moeash.files import as_path, content_of, is_lfs_pointer, lfs_text, replacing, write_flushed
from moeash.options.arguments import checked

MAGIC = b"\x8dMSH"
VERSION = 1
SUFFIX = ".moeash"
NEEDED = f"give the path of a {SUFFIX} file"

IN_UNITS = CODERS.index("adaptive") + 1
"""The adaptive coder where some stream counts magnitudes in other units than one."""

NO_LIMIT = 1 << 62
"""For a file that was written a moment ago by whoever reads it."""


@dataclass(frozen=True, eq=False)
class Container:
    """A decoded file.

    Attributes:
        shared: the network.
        notes: short texts stored along.
        coder: ``"ans"``, ``"huffman"`` or ``"adaptive"``.
        version: format version of the file.
        sizes: bytes of the file by section: header, model, payload, checksum.
    """

    shared: SharedWeights
    notes: Mapping[str, str]
    coder: str
    version: int
    sizes: Mapping[str, int]


def encode(
    shared: SharedWeights, *, coder: str = "ans", notes: Mapping[str, str] | None = None
) -> bytes:
    """Return the file of a network. The same input gives the same bytes.

    Args:
        shared: the network.
        coder: ``"ans"``, ``"huffman"`` (the published method's) or ``"adaptive"`` (smallest).
        notes: short texts to store along, such as the network's name; counted in the size.

    Raises:
        InputError: counts differ from indices, or a limit of the format is exceeded.
        ExportError: the indices do not fit their reserved bytes, see
            :mod:`moeash.codec.static.rates`.
    """
    layout = lay_out(shared, coder=coder, notes=notes)
    bits = BitWriter()
    codebooks.write_all(bits, shared.codebooks)
    assert bits.n_bits == layout.codebook_bits
    sources = streams.symbols_of(shared, layout.kept.groups, streams.write_tables(bits, layout))
    model = bits.to_bytes()
    assert len(model) == layout.model_bytes
    payload, salt = layout.coding.encode(sources, layout.payload_bytes)
    head = (
        MAGIC
        + VERSION.to_bytes(2, "little")
        + bytes([CODERS.index(layout.coder) + layout.in_units, salt])
    )
    sections = (layout.lengths, layout.directory, model, payload, layout.adaptive_section)
    body = head + b"".join(sections)
    data = body + checksum_of(body)
    assert len(data) == layout.total_bytes
    return data


def decode(data: bytes | memoryview, *, max_bytes: int | None = None) -> Container:
    """Read a file.

    Args:
        data: the whole file.
        max_bytes: most bytes of memory that decoding may take, see
            :class:`moeash.codec.demand.Demand`; default the larger of 128 MiB and 1,024 times the
            file. A file of a few bytes can describe a huge constant network.

    Raises:
        CorruptContainerError: the bytes break a rule of the format, or ask for more memory.
        ContainerVersionError: the file was written by a newer moeash.
        ContainerError: there is not as much memory as the file asks for and may have.
    """
    data = memoryview(data).cast("B")
    coder, in_units, salt = _check_prefix(data)
    if max_bytes is None:
        max_bytes = default_limit(len(data))
    try:
        return _decode(data, coder, in_units, salt, max_bytes)
    except MemoryError as exc:
        raise ContainerError(
            f"there is not enough memory for what the file holds; a lower limit than "
            f"max_bytes={max_bytes} would refuse it at once"
        ) from exc


def _decode(data: memoryview, coder: Coder, in_units: bool, salt: int, max_bytes: int) -> Container:
    cursor = Cursor(data[PREFIX_BYTES:-CHECKSUM_BYTES])
    sections = [cursor.varint() for _ in range(4 if coder == "adaptive" else 3)]
    if sum(sections) != cursor.remaining:
        raise CorruptContainerError(
            f"the file says {sum(sections)} bytes follow its header, but {cursor.remaining} do"
        )
    packed, model, payload, *more = (cursor.take(size) for size in sections)
    entries, notes = directory.unpack(packed, max_bytes)
    bits = BitReader(model)
    books = codebooks.read_all(bits, limit=MAX_CODEBOOKS)
    demand_of(entries, books, adaptive=coder == "adaptive").check(max_bytes)
    coding = coding_of(coder)
    arrays = streams.read_tables(bits, entries, books, coding, has_choices=coder == "adaptive")
    bits.finish()
    arrays.fill(coding, payload, salt)
    for section in more:
        arrays.fill_adaptive(Cursor(section), entries, books, in_units=in_units)
    shared = streams.assemble(entries, books, arrays)
    n_payload = len(payload) + sum(map(len, more))
    sizes = {
        "header": len(data) - CHECKSUM_BYTES - len(model) - n_payload,
        "model": len(model),
        "payload": n_payload,
        "checksum": CHECKSUM_BYTES,
    }
    return Container(shared, dict(notes), coder, VERSION, sizes)


def write(
    path: str | os.PathLike[str],
    shared: SharedWeights,
    *,
    coder: str = "ans",
    notes: Mapping[str, str] | None = None,
    check: Callable[[Container], None] | None = None,
) -> int:
    """Write a file, verified: it appears under its name only after it decoded to the same network.

    The bytes go to a temporary file beside it, are flushed, read back, decoded and compared; then
    the file is renamed. On any failure an existing file is untouched and no other file is left.

    Args:
        path: target.
        shared: the network.
        coder: as :func:`encode`.
        notes: as :func:`encode`.
        check: called with the decoded file before it gets its name, e.g. to measure the network
            that was read back; whatever it raises stops the export.

    Returns:
        Bytes of the file.

    Raises:
        InputError: as :func:`encode`.
        ExportError: the folder cannot be written, or the bytes read back are not the network.
    """
    with replacing(path) as temporary:
        n_bytes = write_at(temporary, shared, coder=coder, notes=notes)
        container = verify_at(temporary, shared)
        if check is not None:
            check(container)
    return n_bytes


def write_at(
    path: Path, shared: SharedWeights, *, coder: str = "ans", notes: Mapping[str, str] | None = None
) -> int:
    """Write the bytes of a temporary file, as :func:`encode`; return how many they are."""
    data = encode(shared, coder=coder, notes=notes)
    write_flushed(path, data)
    return len(data)


def verify_at(path: Path, shared: SharedWeights) -> Container:
    """Read a file just written, compare it with what it should hold, return it decoded.

    Raises:
        ExportError: it holds something else.
    """
    try:
        container = decode(path.read_bytes(), max_bytes=NO_LIMIT)
    except ContainerError as exc:
        raise ExportError(f"the file written does not decode: {exc}") from exc
    if container.shared.fingerprint() != shared.fingerprint():
        raise ExportError("the file written does not decode to the same network")
    return container


@checked("max_bytes")
def read(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Container:
    """Read a file from disk, as :func:`decode`; one that cannot be read is a ContainerError."""
    return decode(read_bytes(path), max_bytes=max_bytes)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file.

    Raises:
        ContainerError: the file cannot be read.
    """
    return content_of(as_path(path), MAGIC, ContainerError, NEEDED)


def read_arrays(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> dict[str, NDArray[Any]]:
    """Return every tensor of a file by name, in state order; tied names share one array.

    bfloat16 tensors come as float32; errors are those of :func:`read`.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> arrays = moeash.read(path)
        >>> {name: array.shape for name, array in arrays.items()}
        {'weight': (32, 64), 'bias': (32,)}
    """
    return read(path, max_bytes=max_bytes).shared.decoded()


def checksum_of(body: bytes | memoryview) -> bytes:
    """Return the checksum that a file of these bytes ends with."""
    return hashlib.blake2b(body, digest_size=CHECKSUM_BYTES).digest()


def _check_prefix(data: memoryview) -> tuple[Coder, bool, int]:
    """Check magic, version and checksum; return coder, whether streams are in units, and salt."""
    check_head(bytes(data[:100]), len(data))
    if checksum_of(data[:-CHECKSUM_BYTES]) != bytes(data[-CHECKSUM_BYTES:]):
        raise wrong_checksum()
    return coding_in(bytes(data[:PREFIX_BYTES]))


def check_head(head: bytes, size: int) -> None:
    """Check that a file begins as one and has a version that is read here.

    Args:
        head: its first 100 bytes, or all of them.
        size: its bytes.

    Raises:
        CorruptContainerError: it does not.
        ContainerVersionError: it was written by a newer moeash.
    """
    if is_lfs_pointer(head):
        raise CorruptContainerError(lfs_text("this"))
    if head[: len(MAGIC)] != MAGIC:
        raise CorruptContainerError("this is no .moeash file: it does not begin with its mark")
    if size < PREFIX_BYTES + 3 + CHECKSUM_BYTES:
        raise CorruptContainerError(f"the file is truncated: it has {size} bytes")
    version = int.from_bytes(head[4:6], "little")
    if version > VERSION:
        raise ContainerVersionError(
            f"the file has format version {version}, this moeash reads up to {VERSION}; upgrade it"
        )
    if version != VERSION:
        raise CorruptContainerError(f"the file has format version {version}, which there never was")


def wrong_checksum() -> CorruptContainerError:
    """Return the error of a file whose checksum is not that of its bytes."""
    return CorruptContainerError("the checksum does not match; the file is damaged or truncated")


def coding_in(prefix: bytes) -> tuple[Coder, bool, int]:
    """Return the coder, whether its streams are in units, and the salt, from a file's prefix.

    Raises:
        CorruptContainerError: there is no such coder.
    """
    coder, salt = prefix[6], prefix[7]
    in_units = coder == IN_UNITS
    if coder - in_units >= len(CODERS):
        raise CorruptContainerError(f"the file names the unknown coder {coder}")
    return CODERS[coder - in_units], in_units, salt
