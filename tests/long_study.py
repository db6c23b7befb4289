"""A study of 50,000 evaluations, as its process would have stored it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.evaluation.outcome import Job
from moeash.study.course.options import BudgetOptions
from moeash.study.events import Ended, Opened, PhaseEnded, PhaseStarted
from moeash.study.spec.reading import plain_of_text
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, now
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import COMPLETE, FACTS, STOPPED

SPEC = """
name = "many"
[network]
source = "digits-cnn"
[data]
source = "digits"
[evaluation]
max_drop = 0.3
"""
N, BLOCK, WORKERS = 50_000, 1000, 8
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)


def write_long_study(path: str, name: str, n: int = N) -> None:
    """Store a finished study of ``n`` evaluations, a fifth of them merges, a third stopped."""
    storage = SqlStorage(path)
    facts = replace(
        FACTS,
        name=name,
        spec={**plain_of_text(SPEC), "name": name},
        baseline=0.9,
        original_bytes=2_000_000,
        n_shared=500_000,
        objectives=("size_bytes",),
        reference=(0.0, 1e6),
    )
    study = storage.create_study(facts)
    storage.add_events(study.id, [Opened(facts, 0, BudgetOptions()), PhaseStarted("search", n)])
    rng = np.random.default_rng(0)

    def record(number):
        size_bytes = int(rng.integers(10_000, 200_000))
        metric = 0.5 + 0.4 * size_bytes / 200_000 * float(rng.uniform(0.5, 1))
        sizes = Sizes(size_bytes, int(rng.integers(2, 256)), 4.0)
        outcome = STOPPED if number % 3 == 0 else replace(COMPLETE, metric=metric, bound=metric)
        took = float(rng.uniform(0.5, 1.0))
        ended = BEGAN + timedelta(seconds=number // WORKERS + took)
        spent = {
            "duration_s": took,
            "worker": f"{700 + number % WORKERS}@node-{number % 2}",
            "ended_at": ended.isoformat(timespec="milliseconds"),
        }
        merged = number > 0.8 * n
        steps = (Merge((1,) * 60 + (2,) * (number % 7)),) if merged else ()
        return EvaluationRecord(
            number,
            "merged" if merged else "search",
            number // 20 + 1,
            1 if merged else None,
            Job(Recipe.of({"k": number, "rate": number / 7}, *steps)),
            replace(outcome, sizes=sizes, **spent),
            now(),
        )

    for first in range(1, n + 1, BLOCK):
        storage.add_evaluations(
            study.id, [record(i) for i in range(first, min(first + BLOCK, n + 1))]
        )
    for index in range(1, n // 20 + 1):
        storage.put_generation(study.id, GenerationRecord(index, 0.5, 20 * index, 30, 100, 1.0))
    storage.add_events(study.id, [PhaseEnded("search", "generations"), Ended("finished")])
    storage.set_status(study.id, "finished", ending="generations")
    storage.close()
