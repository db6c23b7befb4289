"""Where images come from: one protocol, one table of names."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from moeash.data.arrays import digits_source, from_arrays, npz_source, torchvision_source
from moeash.data.normalise import Normalisation
from moeash.data.pictures import imagefolder_source, imagenet_source
from moeash.errors import DataError
from moeash.names import call_factory, check_options, nearest


@runtime_checkable
class Source(Protocol):
    """Labelled images in named parts. Images are decoded when asked for, labels are at hand."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, such as ``train`` and ``test``."""

    @property
    def n_classes(self) -> int:
        """Number of classes; labels are below it."""

    def labels(self, part: str) -> NDArray[np.int64]:
        """Return the ``(n,)`` int64 labels of a part, without decoding an image."""

    def images(self, part: str, indices: NDArray[np.int64]) -> Tensor:
        """Return the ``(b, c, h, w)`` float32 normalised images at ``indices``, in that order.

        The caller may keep and change the tensor.
        """

    def files(self, part: str, indices: NDArray[np.int64]) -> list[str] | None:
        """Return what identifies the images without reading them, or ``None``.

        For files: names and sizes, and how they are decoded. ``None`` says that only the images
        themselves identify them.
        """


SOURCES: dict[str, Callable[..., Source]] = {
    "mnist": partial(torchvision_source, "MNIST", preset="mnist", n_classes=10),
    "fashionmnist": partial(
        torchvision_source, "FashionMNIST", preset="fashionmnist", n_classes=10
    ),
    "cifar10": partial(torchvision_source, "CIFAR10", preset="cifar", n_classes=10),
    "cifar100": partial(torchvision_source, "CIFAR100", preset="cifar", n_classes=100),
    "imagenet": imagenet_source,
    "imagefolder": imagefolder_source,
    "npz": npz_source,
    "digits": digits_source,
}
"""Built-in sources by name. Their keyword arguments besides ``root`` are the options."""


def load_source(
    name: str, *, root: str | Path | None = None, options: Mapping[str, Any] | None = None
) -> Source:
    """Open an evaluation set. Nothing is ever downloaded.

    Args:
        name: a name of :data:`SOURCES`, or ``"package.module:factory"``: a function that takes
            ``options`` (and ``root`` when given) and returns a :class:`Source`, or a mapping from
            part to (images, labels) with images already normalised.
        root: the file or folder it is in; not for ``digits``.
        options: e.g. ``mean``, ``std``, ``resize``, ``crop``; see the function of the source.

    Raises:
        DataError: nothing goes by that name, an option is unknown, or the files are missing or
            not usable.
    """
    arguments = dict(options or {})
    if "root" in arguments:
        raise DataError("root is given beside the options, not as one of them")
    if root is not None:
        arguments["root"] = root
    if name in SOURCES:
        factory = SOURCES[name]
        if name == "digits" and root is not None:
            raise DataError("digits come with scikit-learn and take no root")
        if name not in ("digits",):
            arguments.setdefault("root", None)
        check_options(factory, arguments, what=f"data source {name!r}", error=DataError)
        try:
            return factory(**arguments)
        except TypeError as exc:
            raise DataError(f"data source {name!r} refuses its options: {exc}") from exc
    if ":" not in name:
        raise DataError(
            f"no data source is called {name!r}; {nearest(name, SOURCES)}; "
            f"or give 'package.module:factory'"
        )
    made = call_factory(name, arguments, error=DataError)
    if isinstance(made, Mapping):
        return from_arrays(name, made, Normalisation(1.0, (0.0,), (1.0,)))
    if not isinstance(made, Source):
        lacking = [a for a in ("parts", "n_classes", "labels", "images") if not hasattr(made, a)]
        raise DataError(
            f"{name!r} returned {type(made).__name__}, needed a Source or a mapping from part to "
            f"(images, labels); it lacks {', '.join(lacking) or 'name or files'}"
        )
    return made
