"""Fronts of several studies of one network, in numbers.

* Hypervolume (Zitzler and Thiele, PPSN V, 1998) in one box for all: from the float network's bytes
  and the worst metric on any front, the metric in its unit, bytes relative to the float network's.
* Coverage (the same authors, IEEE Trans. Evol. Comp. 3(4), 1999, section IV): the share of another
  front that a front weakly dominates.
* Bytes at equal drop: the smallest file within each of some drops. Where the metric is
  ``neg_divergence`` a drop is the divergence from the float network's outputs, in nats.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeash.errors import InputError
from moeash.options.arguments import checked
from moeash.searches.hypervolume import hypervolume
from moeash.study.solution import Solution
from moeash.study.study import Study

DIGITS = (1, 2, 5)
"""Drops that are compared at, times powers of ten."""

ALIKE = {
    "network_fingerprint": "are of different networks",
    "data_fingerprint": "measured on different images",
    "metric_name": "have different metrics",
}
"""Facts that have to be the same, and what it means when they are not."""


@checked("studies", "drops")
def compare(studies: Sequence[Study], drops: Sequence[float] | None = None) -> dict[str, Any]:
    """Return how the fronts of studies compare, as plain values for JSON.

    Args:
        studies: of one network, evaluated on the same images by the same metric; two or more.
        drops: at which bytes are compared; default: 1, 2, 5, 10, ... within the drops on the
            fronts.

    Raises:
        InputError: there are fewer than two, two have one name, or they do not compare.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> storage = tempfile.mkdtemp() + "/moeash.db"
        >>> module = torch.nn.Linear(64, 32)
        >>> studies = [
        ...     moeash.search(
        ...         module,
        ...         evaluate=lambda m: 1.0,
        ...         method={"name": "uniform", "k": k},
        ...         name=name,
        ...         storage=storage,
        ...         generations=1,
        ...         progress=False,
        ...     )
        ...     for name, k in (("few", [2, 8]), ("many", [16, 64]))
        ... ]
        >>> moeash.compare(studies)["coverage"]
        {'few': {'many': 1.0}, 'many': {'few': 0.0}}
    """
    _check(studies)
    fronts = {study.name: study.front() for study in studies}
    empty = [name for name, front in fronts.items() if not front]
    if empty:
        raise InputError(f"study {empty[0]!r} has no front yet; let it finish a generation first")
    facts = studies[0].facts
    points = {name: _minimised(front) for name, front in fronts.items()}
    worst = max(float(f[:, 0].max()) for f in points.values())
    reference = np.array([worst, facts.original_bytes], dtype=np.float64)
    return {
        "metric": facts.metric_name,
        "baseline": facts.baseline,
        "reference": {"metric": -worst, "size_bytes": facts.original_bytes},
        "studies": [
            {
                "name": name,
                "method": study.spec.method.name,
                "front": len(front),
                "smallest_bytes": min(s.size_bytes for s in front),
                "best_metric": max(s.metric for s in front),
                "hypervolume": _volume(points[name], reference),
            }
            for study, (name, front) in zip(studies, fronts.items(), strict=True)
        ],
        "coverage": {
            one: {other: _coverage(points[one], points[other]) for other in points if other != one}
            for one in points
        },
        "at_equal_drop": [
            {
                "drop": drop,
                "bytes": {name: _smallest(front, drop) for name, front in fronts.items()},
            }
            for drop in (_ladder(fronts.values()) if drops is None else drops)
        ],
    }


def _check(studies: Sequence[Study]) -> None:
    if len(studies) < 2:
        raise InputError(f"got {len(studies)} study to compare; name two or more")
    if len({study.name for study in studies}) < len(studies):
        raise InputError("a study was named twice; name different ones")
    first = studies[0]
    for study in studies[1:]:
        for fact, complaint in ALIKE.items():
            if getattr(study.facts, fact) != getattr(first.facts, fact):
                raise InputError(
                    f"studies {first.name!r} and {study.name!r} {complaint}, so their fronts do "
                    "not compare"
                )


def _minimised(front: Sequence[Solution]) -> NDArray[np.float64]:
    return np.array([(-s.metric, s.size_bytes) for s in front], dtype=np.float64)


def _volume(f: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    scale = np.array([1.0, reference[1]])
    return hypervolume(f / scale, reference / scale)


def _coverage(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the share of one front's points that some point of another equals or dominates."""
    return float((one[:, None, :] <= other[None, :, :]).all(axis=2).any(axis=0).mean())


def _smallest(front: Sequence[Solution], drop: float) -> int | None:
    return min((s.size_bytes for s in front if s.drop <= drop), default=None)


def _ladder(fronts: Any) -> list[float]:
    """Return round drops from the smallest to the largest positive one on any front."""
    drops = [s.drop for front in fronts for s in front if s.drop > 0]
    if not drops:
        return [0.0]
    low, high = math.floor(math.log10(min(drops))), math.ceil(math.log10(max(drops)))
    rungs = [float(f"{d}e{e}") for e in range(low, high + 1) for d in DIGITS]
    return [rung for rung in rungs if min(drops) <= rung <= max(drops)] or [max(drops)]
