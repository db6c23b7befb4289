"""Evaluation sets that are pictures in class folders: ``imagefolder`` and ImageNet."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.data.archive import (
    Folder,
    Picture,
    index_directory,
    index_tar,
    is_hidden,
    is_picture,
)
from moeash.data.decoding import decode
from moeash.data.normalise import Normalisation, normalisation
from moeash.errors import DataError
from moeash.files import looked_for
from moeash.runtime.threads import spread

N_IMAGENET = 1000


class PictureSource:
    """Pictures in class folders, each part a directory or an uncompressed ``.tar``.

    Args:
        name: what messages call it.
        locations: where each part is; indexed when first used.
        normalisation: applied to every decoded picture.
        channels: 3 decodes to RGB, 1 to grey.
        n_threads: threads that decode; changes the time, never the images.
        n_classes: class folders every part must have; ``None`` accepts any number.

    Raises:
        DataError: (on use of a part) see :mod:`moeash.data.archive`, or parts differ in classes.
    """

    def __init__(
        self,
        name: str,
        locations: dict[str, Path],
        normalisation: Normalisation,
        *,
        channels: int = 3,
        n_threads: int = 1,
        n_classes: int | None = None,
    ) -> None:
        if channels not in (1, 3):
            raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels!r}")
        if not isinstance(n_threads, int) or n_threads < 1:
            raise DataError(f"n_threads must be at least 1, got {n_threads!r}")
        self.name = name
        self._locations = locations
        self._normalisation = normalisation
        self._mode = "RGB" if channels == 3 else "L"
        self._n_threads = n_threads
        self._n_expected = n_classes
        self._folders: dict[str, Folder] = {}
        self._labels: dict[str, NDArray[np.int64]] = {}

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(self._locations)

    @property
    def n_classes(self) -> int:
        """Number of classes, from a part that is indexed already or else from the first."""
        return len(self._folder(next(iter(self._folders), self.parts[0])).classes)

    def labels(self, part: str) -> NDArray[np.int64]:
        """Return the ``(n,)`` int64 labels of a part; no picture is opened."""
        self._folder(part)
        return self._labels[part]

    def images(self, part: str, indices: NDArray[np.int64]) -> Tensor:
        """Return the ``(b, c, h, w)`` float32 normalised pictures at ``indices`` of a part.

        Raises:
            DataError: a picture cannot be decoded, or they differ in size.
        """
        folder = self._folder(part)
        pictures = [folder.pictures[i] for i in indices]
        decoded = list(spread(partial(self._decode, folder), pictures, self._n_threads))
        for picture, image in zip(pictures, decoded, strict=True):
            if image.shape != decoded[0].shape:
                raise DataError(
                    f"{picture.path!r} gives an image of shape {tuple(image.shape)}, "
                    f"{pictures[0].path!r} one of {tuple(decoded[0].shape)}; "
                    f"set resize and crop so that all have one size"
                )
        return torch.stack(decoded)

    def files(self, part: str, indices: NDArray[np.int64]) -> list[str]:
        """Return name and size of the files behind ``indices``, and how they are decoded."""
        pictures = self._folder(part).pictures
        return [repr((self._normalisation, self._mode))] + [
            f"{pictures[i].path} {pictures[i].size}" for i in indices
        ]

    def _decode(self, folder: Folder, picture: Picture) -> Tensor:
        data = folder.read(picture)
        what = f"{picture.path!r} in {str(folder.location)!r}"
        return self._normalisation.of_picture(decode(what, data, self._mode))

    def _folder(self, part: str) -> Folder:
        if part not in self._folders:
            self._folders[part] = self._index(part)
            self._labels[part] = np.array(
                [picture.label for picture in self._folders[part].pictures], dtype=np.int64
            )
        return self._folders[part]

    def _index(self, part: str) -> Folder:
        location = self._locations[part]
        folder = index_directory(location) if location.is_dir() else index_tar(location)
        if self._n_expected not in (None, len(folder.classes)):
            raise DataError(
                f"{self.name} needs {self._n_expected} class folders, {str(location)!r} has "
                f"{len(folder.classes)}; use imagefolder for another set of classes"
            )
        for other in self._folders.values():
            if other.classes != folder.classes:
                odd = sorted(set(other.classes) ^ set(folder.classes))
                raise DataError(
                    f"{str(location)!r} and {str(other.location)!r} differ in their classes: "
                    f"{', '.join(map(repr, odd[:3]))} only in one of them"
                )
        return folder


def imagefolder_source(
    *,
    root: str | Path | None,
    preset: str | None = None,
    channels: int = 3,
    n_threads: int = 1,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> PictureSource:
    """Return pictures in class folders.

    ``root`` is a directory that holds a ``<part>.tar`` or ``<part>/<class>/`` for every part; or
    one image folder, ``root/<class>/`` or a ``.tar`` of it, whose part is ``all``.

    Args:
        root: the directory or archive.
        preset: the normalisation; required unless mean and std are given.
        channels: 3 decodes to RGB, 1 to grey.
        n_threads: threads that decode.
        mean: replaces the preset's.
        std: replaces the preset's.
        resize: replaces the preset's.
        crop: replaces the preset's.

    Raises:
        DataError: nothing usable is there, or no normalisation was given.
    """
    if preset is None and (mean is None or std is None):
        raise DataError(
            "imagefolder needs the normalisation the network was trained with: "
            "give preset, or mean and std"
        )
    return PictureSource(
        "imagefolder",
        find_parts("imagefolder", root),
        normalisation(preset or "none", mean=mean, std=std, resize=resize, crop=crop),
        channels=channels,
        n_threads=n_threads,
    )


def imagenet_source(
    *,
    root: str | Path | None,
    n_threads: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    resize: int | None = None,
    crop: int | None = None,
) -> PictureSource:
    """Return ImageNet-1k: ``root/val/<class>/`` and ``root/train/<class>/``, or tars of them.

    The 1,000 classes are numbered in alphabetical order of their folders, as torchvision's
    checkpoints expect. Pictures are resized and cropped by torchvision's standard evaluation.
    """
    return PictureSource(
        "imagenet",
        find_parts("imagenet", root),
        normalisation("imagenet", mean=mean, std=std, resize=resize, crop=crop),
        n_threads=(os.cpu_count() or 1) if n_threads is None else n_threads,
        n_classes=N_IMAGENET,
    )


def find_parts(name: str, root: str | Path | None) -> dict[str, Path]:
    """Return where each part of a picture set is.

    Raises:
        DataError: ``root`` is missing, or holds neither parts nor class folders, or what may be
            either.
    """
    if root is None:
        raise DataError(f"{name} needs root, the folder or .tar with the pictures")
    path = Path(root)
    if path.is_file():
        return {"all": path}
    if not path.is_dir():
        raise DataError(f"{name} was not found: {looked_for(path)} does not exist")
    entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry.name))
    folders = [entry for entry in entries if entry.is_dir()]
    with_pictures = [folder for folder in folders if _holds_pictures(folder)]
    if with_pictures:
        if all(any(map(_holds_pictures, _folders_in(folder))) for folder in with_pictures):
            raise DataError(
                f"{str(with_pictures[0])!r} holds pictures beside folders of pictures, so it may "
                "be a class or a part; move the pictures into the folders of their classes"
            )
        return {"all": path}
    parts = {entry.name: entry for entry in folders}
    for entry in entries:
        if entry.is_file() and entry.suffix == ".tar":
            if entry.stem in parts:
                raise DataError(f"{str(path)!r} holds {entry.stem!r} as folder and as .tar")
            parts[entry.stem] = entry
    if not parts:
        raise DataError(
            f"{str(path)!r} holds neither <part>.tar nor <part>/<class>/ nor <class>/ with pictures"
        )
    return parts


def _folders_in(folder: Path) -> list[Path]:
    entries = (entry for entry in folder.iterdir() if not is_hidden(entry.name))
    return [entry for entry in entries if entry.is_dir()]


def _holds_pictures(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(is_picture(entry.name) for entry in entries)
