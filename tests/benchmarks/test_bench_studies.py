"""Time of what is asked of a study of 50,000 evaluations, beside an import of SQLAlchemy and NumPy.

Run with ``pytest tests/benchmarks/test_bench_studies.py -s``.
"""

import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.evaluation.outcome import Job
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, now
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import COMPLETE, FACTS, STOPPED

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

N, BLOCK, ROUNDS = 50_000, 1000, 5


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """The path of a database with one long study, called many."""
    path = str(tmp_path_factory.mktemp("many") / "many.db")
    fill(path)
    return path


def fill(path):
    """Store a study of one size, a fifth of it merges, a third stopped."""
    storage = SqlStorage(path)
    study = storage.create_study(
        replace(FACTS, name="many", baseline=0.9, objectives=("size_bytes",))
    )
    rng = np.random.default_rng(0)

    def record(number):
        size_bytes = int(rng.integers(10_000, 200_000))
        metric = 0.5 + 0.4 * size_bytes / 200_000 * float(rng.uniform(0.5, 1))
        sizes = Sizes(size_bytes, int(rng.integers(2, 256)), 4.0)
        outcome = STOPPED if number % 3 == 0 else replace(COMPLETE, metric=metric, bound=metric)
        merged = number > 0.8 * N
        steps = (Merge((1,) * 60 + (2,) * (number % 7)),) if merged else ()
        return EvaluationRecord(
            number,
            "merged" if merged else "search",
            number // 20 + 1,
            1 if merged else None,
            Job(Recipe.of({"k": number, "rate": number / 7}, *steps)),
            replace(outcome, sizes=sizes),
            now(),
        )

    for first in range(1, N + 1, BLOCK):
        storage.add_evaluations(study.id, [record(n) for n in range(first, first + BLOCK)])
    for index in range(1, N // 20 + 1):
        storage.put_generation(study.id, GenerationRecord(index, 0.5, 20 * index, 30, 100, 1.0))
    storage.set_status(study.id, "finished", ending="generations")
    storage.close()


def test_list_status_and_front_of_a_long_study(database):
    moeash = ["-m", "moeash.cli.main"]
    calls = {
        "import sqlalchemy, numpy": ["-c", "import sqlalchemy, numpy"],
        "moeash list": [*moeash, "list", "--storage", database],
        "moeash status": [*moeash, "status", "many", "--storage", database],
        "moeash front": [*moeash, "front", "many", "--storage", database],
    }
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that all see the same machine
        for name, arguments in calls.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            least[name] = min(least[name], time.perf_counter() - start)
    imports = least["import sqlalchemy, numpy"]
    print()
    for name, seconds in least.items():
        print(f"{name:26} {seconds:6.3f} s  {seconds / imports:6.1f} x")
