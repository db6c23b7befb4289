"""bfloat16 in NumPy, which has none: as patterns of 16 bits, and as the float32 values they are."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PATTERNS = 1 << 16
"""Values of a dtype of 16 bits."""


def from_patterns(patterns: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the values of bfloat16 patterns."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def to_patterns(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return the bfloat16 patterns nearest to some values, half to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    # A NaN keeps its digits, of which one has to be set.
    cut = bits >> 16
    nan = np.where(cut & 0x7F, cut, cut | 0x40)
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, nan, rounded).astype(np.uint16)


def as_floats(raw: NDArray[Any], dtype: str) -> NDArray[np.floating[Any]]:
    """Return elements as :meth:`Checkpoint.read` gave them as float32, float64 as it is."""
    if dtype == "bfloat16":
        return from_patterns(raw)
    return raw.astype(np.float64 if dtype == "float64" else np.float32, copy=False)


def all_values(dtype: str) -> NDArray[np.float32]:
    """Return ``(65536,)`` the values of all patterns of float16 or bfloat16."""
    patterns = np.arange(PATTERNS, dtype=np.uint16)
    if dtype == "bfloat16":
        return from_patterns(patterns)
    return patterns.view(np.float16).astype(np.float32)
