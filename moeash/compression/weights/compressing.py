"""One file of one checkpoint, from its weights alone."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real

from moeash.codec.layout import Layout
from moeash.codec.streaming.writing import Counted, write
from moeash.compression.weights.choosing import MAX_K, Choice, choice_for_error, k_for_bits
from moeash.compression.weights.sharing import CheckpointContents, Sharing, counted, share
from moeash.compression.weights.survey import Survey, survey
from moeash.core.codebook import float32_bytes
from moeash.core.progress import Progress, silent
from moeash.errors import InputError
from moeash.files import check_target
from moeash.networks.streaming.checkpoint import Checkpoint

MIN_ERROR = 1e-5
"""Least error that can be asked for: below, float64 does not tell the error of a tensor."""

MORE_BINS = 3
"""Times the number of bins is raised for tensors whose sketch was too hopeful; then they are kept.
"""


@dataclass(frozen=True)
class WeightsReport:
    """What compressing a checkpoint gave.

    Attributes:
        size_bytes: of the file.
        checkpoint_bytes: of the tensors in the checkpoint, in its own dtypes.
        ratio: bytes of the same state with floats as float32, tied tensors once, over those of the
            file.
        k: bins.
        n_entries: codebook entries that some weight uses.
        n_shared: shared weights.
        n_kept: kept elements.
        n_tied: tensors that equal an earlier one.
        bits_per_weight: of indices and their tables.
        worst_error: the largest error of a shared tensor: the norm of what its weights move by,
            relative to the norm of its weights.
        worst: the tensor that has it.
        kept_for_error: tensors that would be shared, but do not meet the error asked for.
    """

    size_bytes: int
    checkpoint_bytes: int
    ratio: float
    k: int
    n_entries: int
    n_shared: int
    n_kept: int
    n_tied: int
    bits_per_weight: float
    worst_error: float
    worst: str
    kept_for_error: tuple[str, ...]


def compress_checkpoint(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    k: int | None = None,
    bits: float | None = None,
    max_error: float | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    force: bool = False,
    n_threads: int = 1,
    progress: Progress = silent,
) -> WeightsReport:
    """Write a compressed checkpoint to a verified file; no network and no data are needed.

    Weights go to the nearest of uniform bins of one global codebook, as the method ``uniform`` of
    studies has it. Nothing but a few megabytes of the checkpoint is in memory at a time. Exactly
    one of ``k``, ``bits`` and ``max_error`` says how far to go.

    Args:
        path: a safetensors file, the ``*.safetensors.index.json`` of a sharded checkpoint, or a
            folder that holds either.
        to: target file.
        k: number of bins.
        bits: about how many bits a shared weight shall take.
        max_error: the most that the weights of a shared tensor may move by, in the norm, relative
            to the norm of the tensor. It holds for every shared tensor; those that would take more
            bytes so than kept are kept as they are.
        include: share only tensors that match one of these ``fnmatch`` patterns. Floats of two or
            more dimensions can be shared.
        exclude: keep tensors that match one of these.
        force: replace an existing file.
        n_threads: of the kernel that finds bins.
        progress: hears what is being done.

    Raises:
        InputError: an option is out of its range, or the target exists.
        CheckpointError: the checkpoint cannot be read.
        NonFiniteWeightError: a tensor to be shared holds NaN or infinity.
        ExportError: the file cannot be written.
    """
    _check(path, to, k=k, bits=bits, max_error=max_error, force=force)
    with Checkpoint(path) as checkpoint:
        target = os.path.realpath(to)
        if any(os.path.realpath(tensor.path) == target for tensor in checkpoint.tensors):
            raise InputError(f"{os.fspath(to)!r} is the checkpoint itself; choose another target")
        found = survey(
            checkpoint, include=include, exclude=exclude, sketched=k is None, progress=progress
        )
        if k is not None:
            choice = Choice(k, found.shared)
        elif bits is not None:
            choice = Choice(k_for_bits(found.shared, bits), found.shared)
        else:
            assert max_error is not None
            choice = choice_for_error(found.shared, max_error)
        choice, sharing = _shared(checkpoint, choice, max_error, n_threads, progress)
        what = counted(checkpoint, found, sharing)
        contents = CheckpointContents(checkpoint, sharing, n_threads=n_threads)
        layout = write(to, what, contents, progress=progress)
        return _report(checkpoint, found, choice, sharing, what, layout)


def _check(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    k: int | None,
    bits: float | None,
    max_error: float | None,
    force: bool,
) -> None:
    """Refuse what cannot be meant, before anything is read."""
    if [k, bits, max_error].count(None) != 2:
        raise InputError(
            f"got k={k}, bits={bits}, max_error={max_error}, needed exactly one of them: it says "
            "how far to go"
        )
    for name, given in (("bits", bits), ("max_error", max_error)):
        if given is not None and (isinstance(given, bool) or not isinstance(given, Real)):
            raise InputError(f"got {name}={given!r}, needed a number")
    if k is not None and not (_is_whole(k) and 1 <= k <= MAX_K):
        raise InputError(f"got k={k!r}, needed a number of bins in [1, {MAX_K}]")
    if max_error is not None and not MIN_ERROR <= max_error < 1:
        raise InputError(f"got max_error={max_error}, needed a relative error in [{MIN_ERROR}, 1)")
    check_target(to, force=force)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _shared(
    checkpoint: Checkpoint,
    choice: Choice,
    max_error: float | None,
    n_threads: int,
    progress: Progress,
) -> tuple[Choice, Sharing]:
    """Share the tensors chosen; where an error is asked for, until all of them meet it.

    Sketches are not exact for float32 and float64, and entries are rounded to the tensor's dtype:
    what decides is the error of the weights themselves.
    """
    for attempt in range(MORE_BINS + len(choice.shared) + 1):
        sharing = share(checkpoint, choice.shared, choice.k, n_threads=n_threads, progress=progress)
        allowed = float("inf") if max_error is None else max_error
        above = {name: error for name, error in sharing.errors.items() if error > allowed}
        if not above:
            return choice, sharing
        more = int(choice.k * 1.01 * max(above.values()) / allowed) + 1
        if attempt < MORE_BINS and more <= MAX_K:
            choice = replace(choice, k=more)
            continue
        left = tuple(one for one in choice.shared if one.tensor.name not in above)
        if not left:
            break
        choice = Choice(choice.k, left, (*choice.kept, *above))
    raise InputError(
        f"no tensor is shared within a relative error of {max_error}; allow more, or ask for bits "
        "instead"
    )


def _report(
    checkpoint: Checkpoint,
    found: Survey,
    choice: Choice,
    sharing: Sharing,
    what: Counted,
    layout: Layout,
) -> WeightsReport:
    shared = [checkpoint.tensors[position] for position in what.counts]
    kept = [entry for entry in what.entries if entry.kind == "kept"]
    n_shared = sum(tensor.size for tensor in shared)
    original = sum(float32_bytes(e.dtype, e.size) for e in what.entries if e.kind != "tied")
    payload = sum(int(pool.payload.sum()) for pool in layout.pools if pool) / (1 << 16)
    worst = max(sharing.errors, key=lambda name: sharing.errors[name])
    return WeightsReport(
        size_bytes=layout.total_bytes,
        checkpoint_bytes=checkpoint.size_bytes,
        ratio=original / layout.total_bytes,
        k=choice.k,
        n_entries=len(sharing.codebook),
        n_shared=n_shared,
        n_kept=sum(entry.size for entry in kept),
        n_tied=len(found.tied),
        bits_per_weight=(payload + layout.shared_table_bits) / n_shared,
        worst_error=sharing.errors[worst],
        worst=worst,
        kept_for_error=choice.kept,
    )
