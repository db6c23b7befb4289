"""How many bins: from bits a weight, or from the error every shared tensor may have."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.compression.weights.sharing import grid_over
from moeash.compression.weights.survey import Surveyed
from moeash.core.bins import Grid
from moeash.errors import InputError

MAX_K = 1 << 16
"""Most bins of a checkpoint: more are not worth sharing any weight for."""

STEPS_AN_OCTAVE = 2
"""Numbers of bins tried for an error, before the smallest is looked for between two of them."""

MARGIN = 0.99
"""Share of the error allowed that a sketch may show where it is not exact."""


@dataclass(frozen=True)
class Choice:
    """A number of bins, and who is shared with it.

    Attributes:
        k: bins.
        shared: the tensors that are.
        kept: names of those that are kept, because sharing them so that they meet the error would
            take more bytes.
    """

    k: int
    shared: tuple[Surveyed, ...]
    kept: tuple[str, ...] = ()


def k_for_bits(shared: Sequence[Surveyed], bits: float) -> int:
    """Return the number of bins whose indices take about so many bits a weight.

    Raises:
        InputError: no number does.
    """
    n_weights = sum(one.tensor.size for one in shared)

    def at(k: int) -> float:
        return _index_bits(shared, grid_over(shared, k)) / n_weights

    if not 0 < bits <= at(MAX_K):
        raise InputError(
            f"got {bits} bits a weight, needed more than 0 and at most {at(MAX_K):.2f}, which "
            f"{MAX_K} bins take"
        )
    low, high = 1, MAX_K  # at(low) < bits <= at(high)
    while high - low > 1:
        middle = max(low + 1, round((low * high) ** 0.5))
        low, high = (low, middle) if at(middle) >= bits else (middle, high)
    return high if abs(at(high) - bits) <= abs(at(low) - bits) else low


def choice_for_error(shared: Sequence[Surveyed], max_error: float) -> Choice:
    """Return the number of bins, and the tensors shared, that make the file about smallest.

    More bins let more tensors meet the error, and make the indices of all of them longer. A tensor
    that only a number of bins would save that costs the others more than keeping it costs is kept.

    Args:
        shared: the tensors that may be shared, with sketches.
        max_error: most error of each, as in
            :attr:`moeash.compression.weights.sharing.Sharing.errors`.

    Raises:
        InputError: no tensor meets the error with any number of bins.
    """
    plain = sum(one.sketch.plain_bits for one in shared if one.sketch is not None)
    best_cost, best_k = np.inf, 0
    best: tuple[Surveyed, ...] = ()
    steps = np.arange(STEPS_AN_OCTAVE * int(np.log2(MAX_K)) + 1) / STEPS_AN_OCTAVE
    for k in dict.fromkeys(np.rint(2.0**steps).astype(int).tolist()):
        grid = grid_over(shared, k)
        met = _met(shared, grid, max_error)
        kept = plain - sum(one.sketch.plain_bits for one in met if one.sketch is not None)
        cost = _index_bits(met, grid) + kept
        if met and cost < best_cost:
            best_cost, best_k, best = cost, k, met
        if len(met) == len(shared):
            break  # more bins only take more bits from here on
    if not best:
        raise InputError(
            f"no tensor is shared within a relative error of {max_error} by {MAX_K} bins or fewer; "
            "allow more, or ask for bits instead"
        )
    low, high = max(1, int(best_k / 2 ** (1 / STEPS_AN_OCTAVE))), best_k
    while high - low > max(1, high >> 8):
        middle = (low + high) // 2
        met = _met(best, grid_over(best, middle), max_error)
        low, high = (low, middle) if len(met) == len(best) else (middle, high)
    names = {one.tensor.name for one in best}
    left = tuple(one.tensor.name for one in shared if one.tensor.name not in names)
    return Choice(high, best, left)


def _index_bits(shared: Sequence[Surveyed], grid: Grid) -> float:
    return sum(one.sketch.entropy_bits(grid) for one in shared if one.sketch is not None)


def _met(shared: Sequence[Surveyed], grid: Grid, max_error: float) -> tuple[Surveyed, ...]:
    """Return the tensors within an error on a grid, as their sketches show it."""
    centres = _centres(shared, grid)
    met = []
    for one in shared:
        assert one.sketch is not None
        allowed = max_error * (1.0 if one.sketch.is_exact else MARGIN)
        if one.sketch.squared_error(grid, centres) <= allowed**2 * one.squares:
            met.append(one)
    return tuple(met)


def _centres(shared: Sequence[Surveyed], grid: Grid) -> NDArray[np.float64]:
    counts, sums = np.zeros(grid.n_bins), np.zeros(grid.n_bins)
    for one in shared:
        assert one.sketch is not None
        one.sketch.add_to(grid, counts, sums)
    return np.where(counts > 0, sums / np.maximum(counts, 1e-300), grid.midpoints)
