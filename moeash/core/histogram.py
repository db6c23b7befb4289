"""How weights lie: a histogram small enough to be stored with a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 256


@dataclass(frozen=True)
class Histogram:
    """Weights counted in bins of equal width.

    Attributes:
        low: lower end of the first bin: the lowest weight.
        high: upper end of the last bin: the highest weight.
        counts: weights in each bin.
    """

    low: float
    high: float
    counts: tuple[int, ...]

    @classmethod
    def of(cls, tensors: Sequence[NDArray[np.floating[Any]]], n_bins: int = BINS) -> "Histogram":
        """Count the weights of some tensors.

        Args:
            tensors: finite, at least one weight in all.
            n_bins: of equal width.
        """
        filled = [tensor for tensor in tensors if tensor.size]
        low = min(float(tensor.min()) for tensor in filled)
        high = max(float(tensor.max()) for tensor in filled)
        counts = np.zeros(n_bins, dtype=np.int64)
        for tensor in filled:
            counts += np.histogram(tensor.astype(np.float64, copy=False), n_bins, (low, high))[0]
        return cls(low, high, tuple(counts.tolist()))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Histogram":
        """Return what :meth:`as_dict` returned."""
        return cls(plain["low"], plain["high"], tuple(plain["counts"]))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"low": self.low, "high": self.high, "counts": list(self.counts)}
