"""What a study optimises, and the one place where signs are flipped.

A study maximises its metric and minimises one or more sizes. Everything is stored in its natural
direction (accuracy as measured, bytes as counted); only :func:`as_minimised` produces ``F``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moeash.errors import InputError

SizeName = Literal["size_bytes", "entries", "bits_per_weight"]
SIZE_NAMES: tuple[SizeName, ...] = get_args(SizeName)


@dataclass(frozen=True)
class Sizes:
    """The sizes of one compressed network, all known before any forward pass.

    Attributes:
        size_bytes: bytes of the file, exactly as ``stat`` will report them.
        entries: codebook entries that some weight uses (the paper's second objective).
        bits_per_weight: bits of index payload and its tables per shared weight.
    """

    size_bytes: int
    entries: int
    bits_per_weight: float

    def vector(self, names: Sequence[SizeName]) -> tuple[float, ...]:
        """Return the named sizes, in that order."""
        return tuple(float(getattr(self, name)) for name in names)


def as_minimised(metric: NDArray[Any], sizes: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``F`` for minimisation: the negated metric, then the sizes.

    Args:
        metric: ``(n,)`` higher-is-better values.
        sizes: ``(n, m)`` lower-is-better values.

    Returns:
        ``(n, 1 + m)`` float64.
    """
    metric = np.asarray(metric, dtype=np.float64).reshape(-1, 1)
    sizes = np.asarray(sizes, dtype=np.float64).reshape(metric.shape[0], -1)
    if sizes.shape[1] == 0:
        raise InputError(f"a study needs at least one size to minimise, of {SIZE_NAMES}")
    return np.hstack([-metric, sizes])
