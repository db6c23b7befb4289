"""Which images a study measures on, and how they are divided."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from moeash.errors import InputError
from moeash.names import nearest
from moeash.options.tables import Options

DATA_SOURCES = (
    "mnist",
    "fashionmnist",
    "cifar10",
    "cifar100",
    "imagenet",
    "imagefolder",
    "npz",
    "digits",
)
"""Names of the built-in sources, see :data:`moeash.data.sources.SOURCES`."""


@dataclass(frozen=True)
class DataOptions(Options):
    """``[data]``.

    Attributes:
        source: mnist, fashionmnist, cifar10, cifar100, imagenet, imagefolder, npz or digits, or
            package.module:factory.
        root: file or folder the images are in.
        options: options of the source.
        splits: search, holdout, calibration and train, each as part with range, count or rest.
    """

    table: ClassVar[str] = "data"

    source: str
    root: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    splits: Mapping[str, Mapping[str, Any]] = field(kw_only=True)

    def __post_init__(self) -> None:
        """Take a path as text."""
        if isinstance(self.root, os.PathLike):
            object.__setattr__(self, "root", os.fspath(self.root))
        super().__post_init__()

    def check(self) -> None:
        """Refuse a name that is neither built in nor a reference."""
        if self.source not in DATA_SOURCES and ":" not in self.source:
            raise InputError(
                f"data.source: no data source is called {self.source!r}; "
                f"{nearest(self.source, DATA_SOURCES)}; or give 'package.module:factory'"
            )
