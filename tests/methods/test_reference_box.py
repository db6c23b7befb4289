"""Every complete evaluation lies inside the box against which hypervolumes are measured."""

import numpy as np
import pytest

from moeash.backends.inprocess import InProcessBackend
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.digits import digits_plan
from tests.marks import slow

CALIBRATION = {"splits": {"calibration": {"part": "all", "count": 100, "seed": 0}}}
METHODS = {
    "uniform": {"name": "uniform", "k": [2, 40]},
    "zero aligned": {"name": "uniform", "k": [5, 8], "zero_aligned": True},
    "zero aligned, one k": {"name": "uniform", "k": [8, 8], "zero_aligned": True},
    "feedback": {"name": "feedback", "k": [4, 40], "images": 60, "sketches": 1},
    "trellis": {"name": "feedback", "k": [6, 40], "images": 60, "sketches": 1, "trellis": 4},
    "gpfq": {"name": "gpfq", "k": None, "levels": [1, 8], "images": 60},
}

QUICK = ("uniform",)


@pytest.mark.parametrize(
    ("method", "objectives"),
    [
        *((name, ["entries"]) if name in QUICK else slow(name, ["entries"]) for name in METHODS),
        slow("uniform", ["size_bytes", "bits_per_weight"]),
    ],
)
def test_the_reference_box_holds_every_complete_evaluation(method, objectives, tmp_path):
    plan = digits_plan(
        method=METHODS[method],
        data=CALIBRATION,
        codec={"coder": "adaptive" if method == "trellis" else "ans"},
        search={"population": 4, "objectives": objectives},
        budget={"generations": 2},
        refine={"solutions": 0},
        merge={"trials": 2},
    )
    study = run(plan, SqlStorage(str(tmp_path / "a.db")), InProcessBackend)
    worst_metric, *worst = study.facts.reference
    complete = study.solutions()
    assert complete
    for solution in complete:
        assert solution.metric >= worst_metric
        sizes = solution.record.outcome.sizes.vector(objectives)
        assert (np.array(sizes) < worst).all(), "at the edge of the box it would count for nothing"
    assert all(generation.hypervolume > 0 for generation in study.generations())
