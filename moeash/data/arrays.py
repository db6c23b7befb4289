"""Evaluation sets that are arrays: torchvision's small ones, ``.npz``, scikit-learn's digits."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.data.normalise import Normalisation, normalisation
from moeash.data.npz import read_npz
from moeash.errors import DataError
from moeash.files import head_of, looked_for

Part = tuple[NDArray[Any], NDArray[Any]]
"""Images ``(n, h, w)`` or ``(n, c, h, w)`` in any real dtype, and labels ``(n,)``, integers."""


class ArraySource:
    """Images and labels in memory, part by part.

    Args:
        name: what messages call it.
        load: functions that return each part; called when the part is first used.
        normalisation: applied to the images that are asked for.
        n_classes: number of classes; ``None`` takes the largest label of any part plus one.

    Raises:
        DataError: (on use of a part) shapes, dtypes or labels are not usable.
    """

    def __init__(
        self,
        name: str,
        load: Mapping[str, Callable[[], Part]],
        normalisation: Normalisation,
        *,
        n_classes: int | None = None,
    ) -> None:
        self.name = name
        self._load = dict(load)
        self._normalisation = normalisation
        self._n_classes = n_classes
        self._parts: dict[str, Part] = {}

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(self._load)

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        if self._n_classes is None:
            self._n_classes = 1 + max(int(self.labels(part).max()) for part in self.parts)
        return self._n_classes

    def labels(self, part: str) -> NDArray[np.int64]:
        """Return the ``(n,)`` int64 labels of a part."""
        return self._part(part)[1]

    def images(self, part: str, indices: NDArray[np.int64]) -> Tensor:
        """Return the ``(b, c, h, w)`` float32 normalised images at ``indices`` of a part."""
        images = self._part(part)[0][indices]
        return self._normalisation.of_stack(torch.from_numpy(images))

    def files(self, part: str, indices: NDArray[np.int64]) -> None:
        """Return nothing: arrays have no files, their content identifies them."""

    def _part(self, part: str) -> Part:
        if part not in self._parts:
            images, labels = self._load[part]()
            self._parts[part] = check_part(
                f"{self.name} part {part!r}", images, labels, n_classes=self._n_classes
            )
        return self._parts[part]


def check_part(what: str, images: Any, labels: Any, *, n_classes: int | None) -> Part:
    """Return images as ``(n, c, h, w)`` and labels as ``(n,)`` int64, or refuse them.

    Raises:
        DataError: no images, another number of labels, a shape or dtype that is none of these,
            or a label outside ``[0, n_classes)``.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.dtype.kind not in "buif":
        raise DataError(
            f"{what} has images of shape {images.shape} and dtype {images.dtype}, "
            f"needed numbers of shape (n, h, w) or (n, c, h, w)"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataError(
            f"{what} has labels of shape {labels.shape} and dtype {labels.dtype}, "
            f"needed integers of shape (n,)"
        )
    if len(images) != len(labels):
        raise DataError(f"{what} has {len(images)} images and {len(labels)} labels")
    if not images.size:
        raise DataError(f"{what} is empty: its images have shape {images.shape}")
    check_labels(what, labels, n_classes=n_classes)
    # torch reads neither foreign byte orders nor all unsigned widths, nor floats above 64 bits.
    if images.dtype.kind == "u" and images.dtype.itemsize > 1:
        images = images.astype(np.float32)
    elif images.dtype.itemsize > 8:
        images = images.astype(np.float64)
    return images.astype(images.dtype.newbyteorder("="), copy=False), labels.astype(np.int64)


def check_labels(what: str, labels: NDArray[Any], *, n_classes: int | None) -> None:
    """Refuse labels outside ``[0, n_classes)``.

    Raises:
        DataError: naming the first such label and its position.
    """
    bad = labels < 0
    if n_classes is not None:
        bad |= labels >= n_classes
    if bad.any():
        at = int(np.flatnonzero(bad)[0])
        upper = "" if n_classes is None else f" and below {n_classes}"
        raise DataError(
            f"{what} has {int(bad.sum())} labels out of range, the first is {labels[at]} "
            f"at {at}; labels must be at least 0{upper}"
        )


def torchvision_source(
    dataset: str,
    *,
    root: str | Path | None,
    preset: str,
    n_classes: int,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> ArraySource:
    """Return one of torchvision's small sets, read from ``root`` as torchvision lays it out."""
    if root is None:
        raise DataError(f"{dataset} needs root, the folder that torchvision's {dataset} reads")

    def load(train: bool) -> Part:
        from torchvision import datasets

        try:
            found = getattr(datasets, dataset)(root=str(root), train=train, download=False)
        except Exception as exc:
            # Damaged files surface as almost any type: AssertionError, UnpicklingError, ...
            for file in sorted(Path(root).rglob("*")):
                if file.is_file():
                    head_of(file, DataError)
            raise DataError(
                f"{dataset} was not found in {looked_for(Path(root))}, or is damaged ({exc}); "
                f"nothing is downloaded, put torchvision's files there"
            ) from exc
        images = np.asarray(found.data)
        if images.ndim == 4:  # CIFAR is stored with channels last
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return images, np.asarray(found.targets)

    return ArraySource(
        dataset,
        {"train": lambda: load(True), "test": lambda: load(False)},
        normalisation(preset, mean=mean, std=std, resize=resize, crop=crop),
        n_classes=n_classes,
    )


def digits_source(
    *,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> ArraySource:
    """Return scikit-learn's 1,797 digits, 8x8 with 17 grey levels, one part ``all``."""
    how = normalisation("digits", scale=16.0, mean=mean, std=std, resize=resize, crop=crop)
    return ArraySource("digits", {"all": load_digits}, how, n_classes=10)


def load_digits() -> Part:
    """Return scikit-learn's digits, without importing it where its file is found.

    Importing it takes pandas, SciPy's statistics and more: two seconds of CPU in every process that
    wants the digits.
    """
    package = importlib.util.find_spec("sklearn")
    folder = None if package is None or package.origin is None else Path(package.origin).parent
    if folder is None or not (file := folder / "datasets" / "data" / "digits.csv.gz").is_file():
        from sklearn.datasets import load_digits

        digits = load_digits()
        return digits.images.astype(np.float32), digits.target
    table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 8, 8).astype(np.float32), table[:, -1].astype(np.int64)


def npz_source(
    *,
    root: str | Path | None,
    preset: str = "none",
    n_classes: int | None = None,
    channels_last: bool = False,
    max_bytes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> ArraySource:
    """Return the arrays of an ``.npz`` file.

    The file holds ``x`` and ``y`` (one part, ``all``), or ``x_<part>`` and ``y_<part>`` for each
    part. Integer images are taken as bytes (full scale 255), floats as they are.

    Args:
        root: the file.
        preset: a normalisation preset.
        n_classes: number of classes; the largest label plus one when not given.
        channels_last: images are ``(n, h, w, c)``.
        max_bytes: memory that the arrays may take, see :func:`~moeash.data.npz.read_npz`.
        mean: replaces the preset's.
        std: replaces the preset's.
        resize: replaces the preset's.
        crop: replaces the preset's.

    Raises:
        DataError: the file is missing, damaged, pickled, or its arrays are not usable.
    """
    if root is None:
        raise DataError("npz needs root, the .npz file")
    path = Path(root)
    if max_bytes is not None and (not isinstance(max_bytes, int) or max_bytes < 1):
        raise DataError(f"max_bytes must be a whole number from 1 on, got {max_bytes!r}")
    arrays = read_npz(path, max_bytes=max_bytes)
    parts = {("all" if key == "x" else key[2:]): key for key in arrays if key[:2] in ("x", "x_")}
    missing = ["y" + key[1:] for key in parts.values() if "y" + key[1:] not in arrays]
    if not parts or missing:
        raise DataError(
            f"{str(path)!r} holds {sorted(arrays)}, needed x and y, or x_<part> and y_<part>"
            + (f"; {missing[0]!r} is missing" if missing else "")
        )
    pairs = {part: (arrays[key], arrays["y" + key[1:]]) for part, key in parts.items()}
    if channels_last:
        pairs = {
            part: (np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim == 4 else x, y)
            for part, (x, y) in pairs.items()
        }
    integer = all(x.dtype.kind in "ui" for x, _ in pairs.values())
    if not integer and any(x.dtype.kind in "ui" for x, _ in pairs.values()):
        raise DataError(f"{str(path)!r} mixes integer and float images; store one kind")
    how = normalisation(
        preset,
        scale=255.0 if integer else 1.0,
        mean=mean,
        std=std,
        resize=resize,
        crop=crop,
    )
    return from_arrays(path.name, pairs, how, n_classes=n_classes)


def from_arrays(
    name: str,
    pairs: Mapping[str, Part],
    how: Normalisation,
    *,
    n_classes: int | None = None,
) -> ArraySource:
    """Return a source over arrays that are in memory, checked at once.

    Raises:
        DataError: the arrays of a part are not usable.
    """

    def give(pair: Part) -> Callable[[], Part]:
        return lambda: pair

    source = ArraySource(
        name, {part: give(pair) for part, pair in pairs.items()}, how, n_classes=n_classes
    )
    for part in source.parts:
        source.labels(part)
    return source
