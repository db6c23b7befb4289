"""Entropy of index histograms, in bits."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def entropy_bits(counts: NDArray[Any]) -> float:
    """Return the total order-0 information of a histogram: ``sum n_j log2(N / n_j)`` bits.

    Args:
        counts: non-negative occurrences, any shape, all symbols included (also the zero weight).
    """
    n = np.asarray(counts, dtype=np.float64)
    n = n[n > 0]
    total = n.sum()
    return float((n * (np.log2(total) - np.log2(n))).sum()) if n.size else 0.0
