"""The first pass over a checkpoint: which tensors are shared, and how their weights lie."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.codec.streaming.writing import CHUNK
from moeash.compression.weights.sketch import Sketch
from moeash.core.progress import Progress, silent
from moeash.errors import InputError, NonFiniteWeightError
from moeash.networks.patterns import listed, matching
from moeash.networks.streaming.checkpoint import Checkpoint
from moeash.networks.streaming.floats import PATTERNS, all_values, as_floats
from moeash.networks.streaming.header import StoredTensor
from moeash.runtime.threads import ahead

SHARED_DIMENSIONS = 2
"""Fewest dimensions of a tensor that is shared."""


@dataclass(frozen=True, eq=False)
class Surveyed:
    """A tensor that may be shared.

    Attributes:
        tensor: where it lies.
        low: its lowest weight.
        high: its highest weight.
        squares: sum of the squares of its weights.
        sketch: how they lie; None where nobody will ask.
    """

    tensor: StoredTensor
    low: float
    high: float
    squares: float
    sketch: Sketch | None


@dataclass(frozen=True, eq=False)
class Survey:
    """What the first pass found.

    Attributes:
        shared: tensors to share, in the order of the checkpoint.
        kept: tensors to keep, likewise.
        tied: by name, the earlier shared tensor that a tensor equals bit for bit.
    """

    shared: tuple[Surveyed, ...]
    kept: tuple[StoredTensor, ...]
    tied: Mapping[str, str]


def survey(
    checkpoint: Checkpoint,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    sketched: bool = True,
    progress: Progress = silent,
) -> Survey:
    """Read every tensor that may be shared once.

    Args:
        checkpoint: the checkpoint.
        include: share only what matches one of these patterns.
        exclude: do not share what matches one of these.
        sketched: whether grids will be asked about. Tensors of 16 bits are sketched in any case:
            then they need no second pass.
        progress: hears how many megabytes were read.

    Raises:
        InputError: a pattern matches nothing, or nothing is left to share.
        NonFiniteWeightError: a tensor to be shared holds NaN or infinity.
    """
    names = _chosen(checkpoint.tensors, include, exclude)
    tick = ticking(
        "looking at weights, MB",
        sum(t.size_bytes for t in checkpoint.tensors if t.name in names),
        progress,
    )
    found: list[Surveyed] = []
    tied: dict[str, str] = {}
    alike: dict[tuple[Any, ...], list[StoredTensor]] = {}
    for tensor in checkpoint.tensors:
        if tensor.name not in names:
            continue
        if tensor.width == 2:
            one = _of_patterns(checkpoint, tensor, tick)
        else:
            one = _of_floats(checkpoint, tensor, sketched, tick)
        key = (tensor.dtype, tensor.shape, one.low, one.high, one.squares)
        twins = (other for other in alike.get(key, ()) if _equal(checkpoint, tensor, other))
        twin = next(twins, None)
        if twin is None:
            found.append(one)
            alike.setdefault(key, []).append(tensor)
        else:
            tied[tensor.name] = twin.name
    kept = tuple(tensor for tensor in checkpoint.tensors if tensor.name not in names)
    return Survey(tuple(found), kept, tied)


def _chosen(
    tensors: Sequence[StoredTensor], include: Sequence[str] | None, exclude: Sequence[str] | None
) -> set[str]:
    names = [tensor.name for tensor in tensors]
    eligible = [
        tensor.name
        for tensor in tensors
        if tensor.is_float and len(tensor.shape) >= SHARED_DIMENSIONS and tensor.size
    ]
    chosen = set(eligible)
    otherwise = f"floats of {SHARED_DIMENSIONS} or more dimensions are"
    if include is not None:
        chosen &= matching("include", include, eligible, names, otherwise=otherwise)
    if exclude is not None:
        chosen -= matching("exclude", exclude, names, names, otherwise=otherwise)
    if not chosen:
        raise InputError(
            f"there is no tensor to share: of {len(names)} tensors {len(eligible)} are floats of "
            f"{SHARED_DIMENSIONS} or more dimensions, and include = {listed(include)}, exclude = "
            f"{listed(exclude)} leave none; change the patterns"
        )
    return chosen


Tick = Callable[[int], None]
"""Hears how many bytes more were worked on."""


def ticking(what: str, total: int, progress: Progress) -> Tick:
    """Return what adds up bytes and tells them in megabytes."""
    done = 0

    def tick(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress(what, done >> 20, total >> 20)

    return tick


def runs_of(tensor: StoredTensor) -> Iterator[tuple[int, int]]:
    """Yield where runs of a tensor begin and end that may be in memory."""
    for begin in range(0, tensor.size, CHUNK):
        yield begin, min(begin + CHUNK, tensor.size)


def read_ahead(checkpoint: Checkpoint, tensor: StoredTensor, tick: Tick) -> Iterator[NDArray[Any]]:
    """Yield a tensor in runs, the next of which is read while one is used."""
    for raw in ahead(checkpoint.read(tensor, *run) for run in runs_of(tensor)):
        yield raw
        tick(raw.nbytes)


def _of_patterns(checkpoint: Checkpoint, tensor: StoredTensor, tick: Tick) -> Surveyed:
    counts = np.zeros(PATTERNS, dtype=np.int64)
    for raw in read_ahead(checkpoint, tensor, tick):
        counts += np.bincount(raw.view(np.uint16), minlength=PATTERNS)
    bad = int(counts[~np.isfinite(all_values(tensor.dtype))].sum())
    if bad:
        raise NonFiniteWeightError(tensor.name, count=bad, size=tensor.size)
    sketch = Sketch.of_patterns(counts, tensor.dtype)
    squares = float((sketch.counts * sketch.values**2).sum())
    return Surveyed(tensor, float(sketch.values[0]), float(sketch.values[-1]), squares, sketch)


def _of_floats(
    checkpoint: Checkpoint, tensor: StoredTensor, sketched: bool, tick: Tick
) -> Surveyed:
    low, high, squares = np.inf, -np.inf, 0.0
    heads = np.zeros(PATTERNS, dtype=np.int64)
    for raw in read_ahead(checkpoint, tensor, tick):
        weights = as_floats(raw, tensor.dtype)
        least, most = float(weights.min()), float(weights.max())
        if not np.isfinite(most - least):
            _check_finite(checkpoint, tensor)
        low, high = min(low, least), max(high, most)
        exact = weights.astype(np.float64, copy=False)
        with np.errstate(over="ignore"):
            squares += float(np.dot(exact, exact))
            if sketched:
                heads += _heads(weights.astype(np.float32, copy=False))
    return Surveyed(tensor, low, high, squares, Sketch.of_heads(heads) if sketched else None)


def _heads(weights: NDArray[np.float32]) -> NDArray[np.int64]:
    halves = weights.view(np.uint32) >> 16
    return np.bincount(halves.astype(np.uint16), minlength=PATTERNS)


def _check_finite(checkpoint: Checkpoint, tensor: StoredTensor) -> None:
    bad = 0
    for begin, end in runs_of(tensor):
        weights = as_floats(checkpoint.read(tensor, begin, end), tensor.dtype)
        bad += int((~np.isfinite(weights)).sum())
    if bad:
        raise NonFiniteWeightError(tensor.name, count=bad, size=tensor.size)


def _equal(checkpoint: Checkpoint, one: StoredTensor, other: StoredTensor) -> bool:
    return all(
        checkpoint.read(one, *run).tobytes() == checkpoint.read(other, *run).tobytes()
        for run in runs_of(one)
    )
