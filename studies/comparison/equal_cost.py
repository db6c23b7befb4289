"""Read curves of cost against size at equal cost."""

from collections.abc import Iterable, Sequence
from math import exp, log

import numpy as np


def size_at(points: Sequence[tuple[float, float]], cost: float) -> tuple[float, bool]:
    """Return the size at which a method reaches a cost, and whether that lies among its points.

    A straight line is fitted to log(size) over log(cost), least squares. A measured cost is known
    to some per cent; a line through all points is known better than the two points nearby.

    Args:
        points: at least two ``(size, cost)``, all positive, with different costs.
        cost: positive.

    Returns:
        The size, and whether ``cost`` is within the range of the points' costs.
    """
    x = [log(c) for _, c in points]
    y = [log(size) for size, _ in points]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    if spread == 0:
        raise ValueError("all points have the same cost; a line needs two")
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return exp(mean_y + slope * (log(cost) - mean_x)), min(x) <= log(cost) <= max(x)


def between(points: Iterable[tuple[float, float]], cost: float) -> float:
    """Return the size at a cost on the straight lines between points ``(size, cost)``, both logs.

    For points of a curve that bends, and whose costs are known well; beyond them the last size.
    """
    sizes, costs = np.log(sorted(points, reverse=True)).T
    return exp(float(np.interp(log(cost), costs, sizes)))
