"""The disjoint splits of a study: drawn by rule, held in memory or streamed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.data.arrays import check_labels
from moeash.data.options import DataOptions
from moeash.data.sources import Source, load_source
from moeash.errors import DataError
from moeash.names import nearest
from moeash.runtime.threads import ahead

MEMORY_LIMIT_BYTES = 2 << 30
"""Splits whose float32 images need more than this are streamed."""

LOAD_BATCH = 512
"""Images decoded at a time while a split is brought into memory."""

LOOKED_AT = {"calibration", "train"}
"""Splits that methods may look at; they may have images in common."""

RULE_KEYS = ("part", "range", "count", "rest", "seed")


@dataclass(frozen=True, eq=False)
class Split:
    """Some images of one part of a source.

    Attributes:
        name: what the study calls it, e.g. ``"search"``.
        source: where the images are.
        part: the part they are in.
        indices: ``(n,)`` int64, increasing: positions in the part.
        memory_limit_bytes: the split is held in memory as float32 up to this size.
        note: what people should know about the draw; None: it is as asked for.
    """

    name: str
    source: Source
    part: str
    indices: NDArray[np.int64]
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES
    note: str | None = None

    def __len__(self) -> int:
        return self.indices.size

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """``(n,)`` int64, in the order of ``indices``; read-only."""
        labels = np.asarray(self.source.labels(self.part), dtype=np.int64)[self.indices]
        check_labels(self._what, labels, n_classes=self.source.n_classes)
        labels.flags.writeable = False
        return labels

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """``(c, h, w)``, from the first image."""
        return tuple(self._images(np.arange(1)).shape[1:])

    @property
    def size_bytes(self) -> int:
        """Bytes of all images as float32."""
        return 4 * len(self) * int(np.prod(self.image_shape))

    @property
    def in_memory(self) -> bool:
        """Whether the images are held in memory after their first use."""
        return self.size_bytes <= self.memory_limit_bytes

    def batches(
        self, batch_size: int, order: NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(b, c, h, w)`` float32 images and ``(b,)`` int64 labels, the last batch shorter.

        Tensors may be views of the split's own memory: do not change them.

        Args:
            batch_size: images per batch, at least 1.
            order: positions ``0..n-1`` in the order to visit them; any subset, any repetition.

        Raises:
            DataError: an image cannot be decoded, differs in shape, or holds NaN or infinity.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        positions = np.arange(len(self)) if order is None else np.array(order, dtype=np.int64)
        if positions.size and not (positions.min() >= 0 and positions.max() < len(self)):
            raise DataError(f"order leaves the positions 0..{len(self) - 1} of {self._what}")
        chunks = [
            positions[start : start + batch_size] for start in range(0, positions.size, batch_size)
        ]
        labels = torch.tensor(self.labels)
        if not self.in_memory:
            for chunk, images in self._stream(chunks):
                yield images, labels[torch.from_numpy(chunk)]
            return
        start = 0
        for chunk in chunks:
            stop = start + chunk.size
            if order is None:
                yield self._held[start:stop], labels[start:stop]
            else:
                picked = torch.from_numpy(chunk)
                yield self._held[picked], labels[picked]
            start = stop

    def fingerprint(self) -> str:
        """Return 32 hex digits that change with the labels, the choice or the images.

        Of images in memory every normalised value enters. Of a streamed split its files' names
        and sizes and the way they are decoded enter instead, where the source has files; reading
        it all would cost as much as an evaluation.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.part, len(self), self.source.n_classes)).encode())
        digest.update(self.indices.astype("<i8").tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        files = None if self.in_memory else self.source.files(self.part, self.indices)
        if files is None:
            for images, _ in self.batches(LOAD_BATCH):
                digest.update(repr(tuple(images.shape[1:])).encode())
                digest.update(images.contiguous().numpy().astype("<f4", copy=False).data)
        else:
            digest.update("\n".join(files).encode())
        return digest.hexdigest()

    @property
    def _what(self) -> str:
        return f"split {self.name!r} ({self.source.name} part {self.part!r})"

    @cached_property
    def _held(self) -> Tensor:
        held = torch.empty((len(self), *self.image_shape))
        for start in range(0, len(self), LOAD_BATCH):
            stop = min(start + LOAD_BATCH, len(self))
            held[start:stop] = self._checked(np.arange(start, stop))
        return held

    def _stream(
        self, chunks: Sequence[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Decode the next batch while the caller works on this one."""
        return ahead((chunk, self._checked(chunk)) for chunk in chunks)

    def _checked(self, positions: NDArray[np.int64]) -> Tensor:
        images = self._images(positions)
        if tuple(images.shape[1:]) != self.image_shape:
            raise DataError(
                f"{self._what} has images of shape {tuple(images.shape[1:])} and of "
                f"{self.image_shape}; all must have one shape"
            )
        if not torch.isfinite(images).all():
            bad = int(positions[~torch.isfinite(images).flatten(1).all(1).numpy()][0])
            raise DataError(f"{self._what} holds NaN or infinity in image {int(self.indices[bad])}")
        return images

    def _images(self, positions: NDArray[np.int64]) -> Tensor:
        images = self.source.images(self.part, self.indices[positions])
        if images.dtype != torch.float32 or images.dim() != 4 or len(images) != positions.size:
            raise DataError(
                f"{self._what} gave images of shape {tuple(images.shape)} and {images.dtype}, "
                f"needed ({positions.size}, c, h, w) and torch.float32"
            )
        return images


def load_splits(options: DataOptions) -> dict[str, Split]:
    """Open a source and draw its splits; images are read when a split is first used."""
    source = load_source(options.source, root=options.root, options=options.options)
    return draw_splits(source, options.splits)


def draw_splits(
    source: Source,
    plan: Mapping[str, Mapping[str, Any]],
    *,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> dict[str, Split]:
    """Divide a source into splits that share no image, but that calibration and train may.

    Splits are drawn in the order of the plan, each from what the earlier ones have left; what one
    of calibration and train has taken is left for the other, as both may be looked at alike. A rule
    is

    * ``{range: [a, b]}``: positions a to b - 1 of the part, all of them, or
    * ``{count: n, seed: s}``: n positions drawn so that classes differ by at most 1, or by as
      little as those with fewer left allow, or
    * ``{rest: true}``: everything left,

    the last two within ``range`` when it is given too. ``part`` may be left out where the source
    has one part only; ``seed`` defaults to 0. The draw depends on the seed and the labels alone,
    on every platform and NumPy version.

    Args:
        source: where the images are.
        plan: split name to rule.
        memory_limit_bytes: see :class:`Split`.

    Raises:
        DataError: a rule is not one of these, a range leaves its part or meets an earlier split,
            too few images are left, or a split would be empty.
    """
    splits: dict[str, Split] = {}
    for name, rule in plan.items():
        part = _part_of(source, name, rule)
        labels = np.asarray(source.labels(part), dtype=np.int64)
        owner = np.full(labels.size, -1)  # which split a position belongs to
        for position, split in enumerate(splits.values()):
            if split.part == part and not {name, split.name} <= LOOKED_AT:
                owner[split.indices] = position
        indices = _draw(name, rule, part, labels, owner, list(splits))
        indices.flags.writeable = False
        note = None if rule.get("count") is None else _unbalanced(name, labels, indices)
        splits[name] = Split(name, source, part, indices, memory_limit_bytes, note)
    return splits


def _part_of(source: Source, name: str, rule: Mapping[str, Any]) -> str:
    for key in rule:
        if key not in RULE_KEYS:
            raise DataError(f"split {name!r} has no key {key!r}; {nearest(key, RULE_KEYS)}")
    part = rule.get("part")
    if part is None:
        if len(source.parts) != 1:
            raise DataError(
                f"split {name!r} does not say which part of {source.name} it takes; "
                f"parts are {', '.join(map(repr, source.parts))}"
            )
        part = source.parts[0]
    if part not in source.parts:
        raise DataError(
            f"split {name!r} takes part {part!r}, which {source.name} does not have; "
            f"{nearest(str(part), source.parts)}"
        )
    return str(part)


def _draw(
    name: str,
    rule: Mapping[str, Any],
    part: str,
    labels: NDArray[np.int64],
    owner: NDArray[np.int64],
    earlier: Sequence[str],
) -> NDArray[np.int64]:
    count, rest = rule.get("count"), rule.get("rest", False)
    if (count is not None) + bool(rest) + (rule.get("range") is not None) == 0:
        raise DataError(f"split {name!r} needs range, count or rest")
    if count is not None and rest:
        raise DataError(f"split {name!r} gives both count and rest; give one")
    low, high = _range(name, rule.get("range"), part, labels.size)
    inside = np.arange(low, high)
    left = inside[owner[low:high] < 0]
    if count is None and not rest and left.size < inside.size:
        met = owner[inside][owner[inside] >= 0]
        other = earlier[int(met[0])]
        raise DataError(
            f"splits {name!r} and {other!r} overlap: {met.size} of {inside.size} images in range "
            f"[{low}, {high}] of part {part!r} are taken"
        )
    if count is None:
        chosen = left
    else:
        chosen = _balanced(
            name,
            _whole(name, "count", count, least=1),
            labels,
            left,
            _whole(name, "seed", rule.get("seed", 0), least=0),
        )
    if not chosen.size:
        raise DataError(f"split {name!r} is empty: nothing of part {part!r} is left for it")
    return chosen


def _range(name: str, given: Any, part: str, size: int) -> tuple[int, int]:
    if given is None:
        return 0, size
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != 2:
        raise DataError(f"split {name!r} has range {given!r}, needed [first, end]")
    low, high = (_whole(name, "range", value, least=0) for value in given)
    if high > size:
        raise DataError(f"split {name!r} has range [{low}, {high}], but part {part!r} has {size}")
    if low >= high:
        raise DataError(f"split {name!r} is empty: its range is [{low}, {high}]")
    return low, high


def _whole(name: str, key: str, value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DataError(
            f"split {name!r} has {key} {value!r}, needed a whole number from {least} on"
        )
    return value


def sample(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return ``count`` of ``size`` positions, drawn without replacement, ascending; all if fewer.

    A split's images may be sorted by class, so its first ones are no sample of it.
    """
    keys = np.random.PCG64(seed).random_raw(size)
    return np.sort(np.argsort(keys, kind="stable")[:count])


def _balanced(
    name: str, count: int, labels: NDArray[np.int64], left: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Draw ``count`` of ``left`` so that the numbers per class differ by at most 1.

    Classes with fewer left give all they have, and the others as many more.

    Every position gets a random 64-bit key and each class gives its smallest ones; which classes
    give one more is decided by keys too. Raw bits of PCG64 are stable across NumPy versions,
    unlike ``Generator.choice``.
    """
    if count > left.size:
        raise DataError(f"split {name!r} wants {count} images, but {left.size} are left for it")
    classes = np.unique(labels)
    keys = np.random.PCG64(seed).random_raw(labels.size + classes.size)
    luck = np.argsort(keys[labels.size :], kind="stable")
    available = _per_class(classes, labels[left])
    each = _level(available, count)
    extra = count - int(np.minimum(available, each).sum())
    drawn = []
    for position in luck:
        more = extra > 0 and available[position] > each
        extra -= more
        mine = left[labels[left] == classes[position]]
        drawn.append(mine[np.argsort(keys[mine], kind="stable")[: each + more]])
    return np.sort(np.concatenate(drawn))


def _per_class(classes: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many of some labels are of each class; ``classes`` increase and hold them all."""
    return np.bincount(np.searchsorted(classes, labels), minlength=classes.size)


def _level(available: NDArray[np.int64], count: int) -> int:
    """Return how many every class that has them gives, so that all give at most ``count``."""
    low, high = 0, count
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(available, middle).sum()) <= count:
            low = middle
        else:
            high = middle - 1
    return low


def _unbalanced(name: str, labels: NDArray[np.int64], indices: NDArray[np.int64]) -> str | None:
    """Return what to say where classes differ by more than 1."""
    classes = np.unique(labels)
    counts = _per_class(classes, labels[indices])
    if counts.max() - counts.min() <= 1:
        return None
    return (
        f"split {name!r} has {counts.min()} to {counts.max()} images a class, as some of the "
        f"{classes.size} classes had no more left for it"
    )
