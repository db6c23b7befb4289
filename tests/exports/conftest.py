"""A study that is stored and was never run."""

import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome
from moeash.study.facts import StudyFacts
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, now
from moeash.study.study import Study
from tests.databases import stored_at
from tests.digits import digits_spec
from tests.exports.pictures import BASELINE


@pytest.fixture
def make_study(tmp_path):
    """Store a study of ``(metric, bytes)`` or ``(metric, bytes, parent)``, numbered from 1."""
    storage = stored_at(str(tmp_path / "studies.db"))

    def make(points=(), *, name="study", volumes=(), max_drop=None, **changed):
        facts = {
            "name": name,
            "spec": digits_spec(name=name, evaluation={"max_drop": max_drop}).to_dict(),
            "fingerprint": "f",
            "network_fingerprint": "n",
            "data_fingerprint": "d",
            "environment": {},
            "keeping": {},
            "metric_name": "top1",
            "baseline": BASELINE,
            "original_bytes": 1_000_000,
            "n_shared": 250_000,
            "n_kept": 0,
            "n_batches": 10,
            "objectives": ("size_bytes",),
            "reference": (0.0, 1e6),
        }
        record = storage.create_study(StudyFacts(**(facts | changed)))
        for number, (metric, size_bytes, *parent) in enumerate(points, start=1):
            evaluation = EvaluationRecord(
                number=number,
                stage="merged" if parent else "search",
                generation=1,
                parent=parent[0] if parent else None,
                job=Job(Recipe.of({"k": number})),
                outcome=Outcome(
                    "stopped" if metric is None else "complete",
                    metric,
                    0.95 if metric is None else metric,
                    Sizes(size_bytes, number + 1, 4.0),
                    "x",
                    10,
                    0.1,
                ),
                created_at=now(),
            )
            storage.add_evaluations(record.id, [evaluation])
        for index, volume in enumerate(volumes, start=1):
            storage.put_generation(
                record.id, GenerationRecord(index, volume, 20 * index, 5, 100, 1.0)
            )
        return Study(storage, name)

    yield make
    storage.close()
