"""An adaptive coder for the indices of shared weights: about a tenth below order-0 tables.

Indices of one tensor are not independent: filters, input channels and kernel positions differ in
scale, neighbours resemble each other, and some columns are all zero. The coder predicts every
index from what it has already coded, in the tensor's own geometry: axis 0 are rows (filters), axis
1 input channels, all further axes together the taps of a kernel. Nothing is sent but the coded
decisions; encoder and decoder learn alike.

**Decisions.** With m the distance of an index from the zero entry: is m above 0? is the index above
zero? is m above 1, 2, ..., 7? The rest follows in Elias' gamma code with an adaptive probability
per length and for its two leading bits. What the alphabet forces is not coded.

**Prediction.** Eight contexts, each a number computed from coded neighbours or running means, look
up how often the decision was taken there (probability of 22 bits, moved by 1 / (count + 1.5)
until the count reaches 250). Their stretched probabilities ln(p / (1 - p)) and six running
statistics enter a logistic mixture whose weights learn online, one set per decision. A last stage
corrects the mixture by column scale, interpolated in 33 steps. The model is carried from tensor to
tensor; only one tensor-local context, the running means and the learning rate start anew. The row
means of one tensor are a statistic of the next one's input channels when their numbers divide: a
filter that is all zero leaves an input nobody reads.

**Units.** A wide alphabet would take many decisions a weight. A stream may therefore count
magnitudes in units of ``2**shift``, rounded up: decisions, neighbours and contexts see those, the
running means see fractions. A magnitude's place within its unit follows in ``shift`` bits, the most
significant first. Four of them have adaptive probabilities, by 32 expected scales, by 1, 2, 3 or
more units and by the bits before; the others cost a bit each. The shift is the encoder's choice.

**Trellises.** Indices that follow a trellis (:mod:`moeash.core.trellis`) are coded as its levels,
which stand where the distances from the zero entry stand above. The state of a weight's column says
which half of the entries is open to it: it bounds the magnitude, and half 1 has its own
probabilities and weights for "above 0?" and "above 1?". A level of half 1 counts half less in the
running means; row means for the next tensor are those of the levels.

**Coding.** A binary range coder with a 64-bit interval. The stream ends with the fewest bytes that
name a number in the last interval whatever its lower end: what is decoded has one length, and a
stream of another is refused.

Everything is integer arithmetic; tables come from integer recurrences, never from the platform's
``exp``. Every number of :mod:`moeash.codec.adaptive.model` is part of the file format.
:mod:`moeash.codec.reference` decodes it without this package; ``tests/codec/adaptive/twin.py``, the
whole coder in 380 lines of plain Python, is the definition, and the kernel equals it bit for bit.

Source: the technique is that of lossless data compression: adaptive binary contexts (Rissanen and
Langdon, 1981), online logistic mixing and secondary estimation (Mahoney, PAQ, 2005). The contexts
are our own, chosen by measured bytes on six feedback and three nearest-bin index files.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeash.codec.adaptive.walk import INDEPENDENT, Geometry, Shape, Walk
from moeash.core.codebook import index_dtype
from moeash.core.trellis import Trellis, levels_of, trellis, values_of
from moeash.errors import CorruptContainerError, InputError

MAX_ENTRIES = 1 << 24
MAX_SHIFT = 15

MIN_WEIGHTS_IN_UNITS = 10_000
"""Streams of fewer weights are coded in units of one."""

WEIGHTS_PER_BYTE = 16_000
"""No stream holds more: every weight costs a decision of at least -log2(1 - 24 / 65536) bits."""

Tensor = tuple[NDArray[np.unsignedinteger[Any]], Shape]


def _check_alphabet(n_entries: int, zero: int, shift: int) -> None:
    if not 1 <= n_entries <= MAX_ENTRIES:
        raise InputError(f"{n_entries} entries; the adaptive coder takes 1 to {MAX_ENTRIES}")
    if not 0 <= zero < n_entries:
        raise InputError(f"zero is entry {zero}, outside the {n_entries} entries")
    if not 0 <= shift <= MAX_SHIFT:
        raise InputError(f"units of 2**{shift}; the adaptive coder takes 2**0 to 2**{MAX_SHIFT}")


class Stream(NamedTuple):
    """A coded stream and where its bytes went.

    Attributes:
        data: the stream.
        tensor_bytes: bytes that were complete after each tensor, less those before it; the last
            few bytes of the stream belong to no tensor.
    """

    data: bytes
    tensor_bytes: tuple[int, ...]


def choose_shift(
    tensors: Sequence[Tensor], zero: int, trellises: Sequence[int] | None = None
) -> int:
    """Return the shift for a stream: units of which an average weight has about one.

    Measured against units of one on ResNet-20, LeNet-300-100 and LeNet-5 at 40 to 512 uniform bins:
    never 0.1 % more bytes, at 512 up to 3.6 % less, and decoded up to twice as fast.

    Args:
        tensors: as :func:`encode_stream`.
        zero: as :func:`encode_stream`.
        trellises: as :func:`encode_stream`; levels are half as far from zero as their indices.
    """
    n_weights = sum(indices.size for indices, _ in tensors)
    if n_weights < MIN_WEIGHTS_IN_UNITS:
        return 0
    total = 0
    for (indices, _), path in zip(tensors, _paths(trellises, len(tensors)), strict=True):
        counts = np.bincount(indices)
        distance = int(counts @ np.abs(np.arange(counts.size) - zero))
        total += distance if path is INDEPENDENT else distance // 2
    shift = 0
    while shift < MAX_SHIFT and 100 * total >= (110 + (124 << shift)) * n_weights:
        shift += 1
    return shift


def encode(
    tensors: Sequence[Tensor],
    n_entries: int,
    zero: int,
    trellises: Sequence[int] | None = None,
    *,
    shift: int = 0,
) -> bytes:
    """Return the coded indices of all tensors as one stream; see :func:`encode_stream`."""
    return encode_stream(tensors, n_entries, zero, trellises, shift=shift).data


def encode_stream(
    tensors: Sequence[Tensor],
    n_entries: int,
    zero: int,
    trellises: Sequence[int] | None = None,
    *,
    shift: int = 0,
) -> Stream:
    """Code the indices of all tensors, in order, as one stream.

    Args:
        tensors: per tensor its indices, ``(n,)`` unsigned integers below ``n_entries`` in C order,
            and its shape; related tensors are best given in the order of the network.
        n_entries: entries of the codebook all tensors use.
        zero: the entry nearest 0, where magnitudes are counted from.
        trellises: per tensor the states of the trellis it follows, 0 for none; default all 0.
        shift: magnitudes are modelled in units of 2**shift, see :func:`choose_shift`.

    Raises:
        InputError: the alphabet or the shift is refused, or a tensor's indices do not fit it, their
            shape or their trellis.
    """
    _check_alphabet(n_entries, zero, shift)
    paths = _paths(trellises, len(tensors))
    coder = Walk(n_entries, zero, shift, None)
    ends = []
    for position, (indices, shape) in enumerate(tensors):
        size = math.prod(shape)
        if indices.ndim != 1 or indices.size != size:
            raise InputError(
                f"tensor {position} has indices of shape {indices.shape}, needed ({size},) "
                f"for its shape {shape}"
            )
        if size == 0:
            ends.append(int(coder.state[2]))
            continue
        if not np.issubdtype(indices.dtype, np.integer):
            raise InputError(f"tensor {position} has indices of dtype {indices.dtype}")
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= n_entries:
            raise InputError(
                f"tensor {position} has indices from {low} to {high}, outside {n_entries} entries"
            )
        if n_entries == 1:
            ends.append(0)
            continue
        geometry = Geometry.of(shape)
        values = np.zeros(geometry.pad + size, dtype=np.int32)
        np.subtract(indices, zero, out=values[geometry.pad :], dtype=np.int64, casting="unsafe")
        if paths[position] is not INDEPENDENT:
            n_states = paths[position].n_states
            levels = levels_of(values[geometry.pad :], shape, n_states)
            if levels is None:
                raise InputError(f"tensor {position} does not follow the trellis of {n_states}")
            values[geometry.pad :] = levels
        coder.tensor(geometry, values, paths[position])
        ends.append(int(coder.state[2]))
    data = _finish(coder) if coder.used else b""
    return Stream(data, tuple(np.diff(ends, prepend=0).tolist()))


def _paths(trellises: Sequence[int] | None, n_tensors: int) -> list[Trellis]:
    if trellises is None:
        return [INDEPENDENT] * n_tensors
    if len(trellises) != n_tensors:
        raise InputError(f"{len(trellises)} trellises for {n_tensors} tensors")
    return [trellis(n_states) if n_states else INDEPENDENT for n_states in trellises]


def _finish(coder: Walk) -> bytes:
    tail = coder.tail_bytes()
    unit = 1 << (64 - 8 * tail)
    end = (int(coder.state[1]) + unit - 1) // unit * unit
    head = coder.output[: int(coder.state[2])].tobytes()
    if end >> 64:  # a carry into what is written
        head = (int.from_bytes(head, "big") + 1).to_bytes(len(head), "big")
        end -= 1 << 64
    return head + end.to_bytes(8, "big")[:tail]


def decode(
    data: bytes,
    shapes: Sequence[Shape],
    n_entries: int,
    zero: int,
    trellises: Sequence[int] | None = None,
    *,
    shift: int = 0,
) -> list[NDArray[np.unsignedinteger[Any]]]:
    """Return the indices of every tensor: ``(n,)`` of the narrowest dtype, all below ``n_entries``.

    Time and memory are bounded by the number of weights in ``shapes``, and that number by the bytes
    of ``data`` before anything is allocated; only an alphabet of one entry takes no bytes, and
    there the caller vouches for the shapes. ``trellises`` and ``shift`` as in
    :func:`encode_stream`.

    Raises:
        CorruptContainerError: no tensors of these shapes are coded as ``data``.
        InputError: the alphabet or the shift is refused.
    """
    _check_alphabet(n_entries, zero, shift)
    paths = _paths(trellises, len(shapes))
    dtype = index_dtype(n_entries)
    sizes = [math.prod(shape) for shape in shapes]
    if any(extent < 0 for shape in shapes for extent in shape):
        raise CorruptContainerError("a shape has a negative extent")
    if n_entries == 1 or not any(sizes):
        if data:
            raise CorruptContainerError(f"{len(data)} bytes of indices where none are needed")
        return [np.zeros(n, dtype=dtype) for n in sizes]
    if sum(sizes) > WEIGHTS_PER_BYTE * (len(data) + 8):
        raise CorruptContainerError(f"{len(data)} bytes cannot hold {sum(sizes)} indices")
    coder = Walk(n_entries, zero, shift, np.frombuffer(data, dtype=np.uint8))
    code = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
    if code >= int(coder.state[0]):
        raise CorruptContainerError("the coded indices begin outside the coder's interval")
    coder.state[1:] = code, 8
    arrays = []
    for shape, n, path in zip(shapes, sizes, paths, strict=True):
        geometry = Geometry.of(shape)
        values = np.zeros(geometry.pad + n, dtype=np.int32)
        if n and not coder.tensor(geometry, values, path):
            raise CorruptContainerError("the coded indices end early or leave their alphabet")
        decoded = values[geometry.pad :]
        if n and path is not INDEPENDENT:
            decoded = values_of(decoded, shape, path.n_states)
        decoded += zero
        arrays.append(decoded.astype(dtype))
    needed = int(coder.state[2]) - 8 + coder.tail_bytes()
    if needed != len(data):
        raise CorruptContainerError(f"the coded indices take {needed} bytes, not {len(data)}")
    return arrays
