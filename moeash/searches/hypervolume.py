"""Hypervolume of a front, by pymoo."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.indicators.hv import HV


def hypervolume(f: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the volume that ``f`` dominates below ``reference``; 0 for an empty front.

    Args:
        f: ``(n, m)`` values to minimise.
        reference: ``(m,)`` reference point, fixed by the study's spec. Rows beyond it count 0.

    Source:
        Zitzler and Thiele, PPSN V, 1998. Computed by pymoo.
    """
    f = np.asarray(f, dtype=np.float64)
    inside = f[(f < reference).all(axis=1)] if f.size else f
    return (
        float(HV(ref_point=np.asarray(reference, dtype=np.float64))(inside)) if len(inside) else 0.0
    )
