"""How many entries a candidate may ask for: what grids and files can hold."""

from typing import Annotated

from moeash.core.bins import MAX_BINS
from moeash.options.kinds import Bounds

Bins = Annotated[int, Bounds(1, MAX_BINS)]
"""Bins of a grid."""

Levels = Annotated[int, Bounds(1, MAX_BINS // 2 - 2)]
"""Positive symbols of an alphabet: as many negative ones, a zero, and two for a threshold."""
