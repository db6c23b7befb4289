"""Stopping early must not change a front: the claim the whole evaluation rests on.

Every study here is compared with a full evaluation of exactly the candidates it proposed.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from moeash.backends.base import Baseline, OneAtATime, ignore
from moeash.backends.inprocess import InProcessBackend
from moeash.core.kept import Keeping
from moeash.core.progress import silent
from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.study.facts import floor_of
from moeash.study.run import run
from moeash.study.solution import Solution, front_of, minimised
from moeash.study.storage.sql import SqlStorage
from tests.digits import digits_plan
from tests.marks import few_quick, slow


def front_rows(solutions):
    return [(s.id, *row) for s, row in zip(solutions, minimised(solutions), strict=True)]


def full_front(study, evaluate_in_full, max_drop):
    """Return the front of the study's own candidates, each evaluated in full, and all of these."""
    floor = floor_of(study.facts.baseline, max_drop)
    full = {}
    for record in study.evaluations():
        outcome = evaluate_in_full(record.candidate)
        assert outcome.status == "complete" and outcome.sizes == record.outcome.sizes
        full[record.number] = Solution(study.facts, replace(record, outcome=outcome))
    return front_of([s for s in full.values() if s.metric >= floor]), full


def check(study, evaluate_in_full, max_drop):
    """Compare fronts; return how many evaluations were stopped."""
    expected, full = full_front(study, evaluate_in_full, max_drop)
    assert front_rows(study.front()) == front_rows(expected)
    floor = floor_of(study.facts.baseline, max_drop)
    complete = [full[r.number] for r in study.evaluations() if r.outcome.status == "complete"]
    stopped = [r for r in study.evaluations() if r.outcome.status == "stopped"]
    for record in stopped:
        solution = full[record.number]
        assert solution.metric <= record.outcome.bound
        mine = minimised([solution])[0]
        assert solution.metric < floor or any(
            (row <= mine).all() and (row < mine).any() for row in minimised(complete)
        )
    for record in study.evaluations():
        if record.outcome.status == "complete":
            assert record.outcome.metric == full[record.number].metric
            assert record.outcome.fingerprint == full[record.number].record.outcome.fingerprint
    return len(stopped)


# ------------------------------------------------------------------ a real network


@cache
def digits_in_full(metric, batch_size):
    """Return a cached full evaluation of digits candidates."""
    task = digits_plan(evaluation={"metric": metric, "batch_size": batch_size}).task
    evaluator = Evaluator(task)
    nothing = Archive(task.objectives)
    return cache(lambda candidate: evaluator.evaluate(Job(Recipe(candidate)), nothing))


OBJECTIVES = (("size_bytes",), ("entries",), ("size_bytes", "entries"), ("bits_per_weight",))
QUICK = 7
"""One of these, of a metric below zero, is in the quick loop; it has more of the tables below."""
CASES = [
    pytest.param(
        metric,
        batch_size,
        objectives,
        max_drop,
        seed,
        marks=[] if seed == QUICK else [pytest.mark.slow],
    )
    for seed, (metric, batch_size, objectives, max_drop) in enumerate(
        [
            ("top1", 40, OBJECTIVES[0], None),
            ("top1", 7, OBJECTIVES[0], 0.05),
            ("top1", 200, OBJECTIVES[1], 0.05),
            ("top1", 40, OBJECTIVES[2], None),
            ("top1", 40, OBJECTIVES[3], 0.02),
            ("macro_f1", 40, OBJECTIVES[0], None),
            ("macro_f1", 7, OBJECTIVES[2], 0.05),
            ("neg_cross_entropy", 40, OBJECTIVES[0], None),
            ("neg_cross_entropy", 7, OBJECTIVES[1], 0.1),
            ("neg_divergence", 40, OBJECTIVES[0], None),
            ("neg_divergence", 7, OBJECTIVES[1], 0.1),
            ("agreement", 40, OBJECTIVES[0], None),
            ("agreement", 7, OBJECTIVES[2], 0.02),
        ]
    )
]


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "batch_size", "objectives", "max_drop", "seed"), CASES)
def test_a_study_of_a_network_has_the_front_of_full_evaluations(
    tmp_path, metric, batch_size, objectives, max_drop, seed
):
    plan = digits_plan(
        seed=seed,
        evaluation={"metric": metric, "batch_size": batch_size, "max_drop": max_drop},
        search={"objectives": objectives, "population": 10},
        budget={"generations": 4},
    )
    study = run(plan, SqlStorage(str(tmp_path / "a.db")), InProcessBackend)
    n_stopped = check(study, digits_in_full(metric, batch_size), max_drop)
    if batch_size < 200:  # one batch cannot be stopped half way
        assert n_stopped >= 1
        spent = sum(r.outcome.n_batches for r in study.evaluations())
        assert spent < study.facts.n_batches * len(study.evaluations())


@pytest.mark.slow
def test_every_algorithm_has_the_front_of_full_evaluations(tmp_path):
    for algorithm in ("exhaustive", "random"):
        plan = digits_plan(name=algorithm, search={"algorithm": algorithm, "population": 16})
        study = run(plan, SqlStorage(str(tmp_path / "a.db")), InProcessBackend)
        assert check(study, digits_in_full("top1", 40), None) >= 3


# ------------------------------------------------------------------ synthetic tables


class TableBackend(OneAtATime):
    """Measures from a table of right answers a batch; sizes from another. No network at all.

    The tables are rougher than any network: neither metric nor sizes are monotone in k, ties
    abound. ``order`` shuffles the jobs of a generation before they are evaluated.
    """

    N_BATCHES, BATCH = 6, 10

    def __init__(self, seed, *, order=None):
        super().__init__()
        rng = np.random.default_rng(seed)
        rising = np.linspace(0.3, 0.97, 65)[:, None]
        self.right = rng.binomial(self.BATCH, rising, (65, self.N_BATCHES))
        self.bytes = 100 + 4 * np.arange(65) + rng.integers(-40, 40, 65)
        self.entries = np.maximum(1, np.arange(65) - rng.integers(0, 6, 65))
        self.order = np.random.default_rng(order) if order is not None else None

    def open(self, notify=ignore, progress=silent):
        return Baseline(
            0.95, 0.0, self.N_BATCHES, 10_000, 2500, 0, "network", "data", Keeping(), (), 64
        )

    def evaluate(self, job, archive):
        k, total = job.recipe.candidate["k"], self.N_BATCHES * self.BATCH
        sizes = Sizes(int(self.bytes[k]), int(self.entries[k]), float(self.bytes[k]) / 9)
        for n in range(self.N_BATCHES):
            bound = (self.right[k, :n].sum() + total - n * self.BATCH) / total
            if bound < job.floor or archive.rules_out(bound, sizes):
                return Outcome("stopped", None, float(bound), sizes, None, n, 0.0)
        metric = float(self.right[k].sum() / total)
        return Outcome("complete", metric, metric, sizes, f"k{k}", self.N_BATCHES, 0.0)

    def next(self):
        tickets = list(self.queue)
        ticket = tickets[0] if self.order is None else int(self.order.choice(tickets))
        return ticket, self.evaluate(*self.queue.pop(ticket))

    def build(self, recipe, *, start=None):
        raise NotImplementedError("tables have no weights")

    def close(self):
        pass


@pytest.mark.parametrize("seed", few_quick(range(12), 0, 3))
def test_a_study_of_tables_has_the_front_of_full_evaluations(tmp_path, seed):
    objectives, max_drop = OBJECTIVES[seed % 4], (None, 0.3)[seed % 2]
    plan = digits_plan(
        seed=seed,
        evaluation={"max_drop": max_drop},
        search={"objectives": objectives, "population": 6},
        budget={"generations": 8},
    )
    backend = TableBackend(seed)
    study = run(plan, SqlStorage(str(tmp_path / "a.db")), lambda task: backend)
    nothing = Archive(objectives)
    n_stopped = check(study, lambda c: backend.evaluate(Job(Recipe(c)), nothing), max_drop)
    assert n_stopped >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *map(slow, range(1, 4))])
def test_outcomes_do_not_depend_on_the_order_within_a_generation(tmp_path, seed):
    plan = digits_plan(search={"objectives": OBJECTIVES[2]}, budget={"generations": 6}, seed=seed)
    records = []
    for order in (None, 1, 2):
        backend = TableBackend(seed, order=order)
        storage = SqlStorage(str(tmp_path / f"{order}.db"))
        study = run(plan, storage, lambda task, backend=backend: backend)
        records.append([replace(r, created_at="") for r in study.evaluations()])
    assert records[0] == records[1] == records[2]
    assert {r.outcome.status for r in records[0]} == {"complete", "stopped"}


def test_the_hypervolume_is_that_of_the_front_so_far(tmp_path):
    plan = digits_plan(budget={"generations": 5})
    backend = TableBackend(3)
    study = run(plan, SqlStorage(str(tmp_path / "a.db")), lambda task: backend)
    volumes = [g.hypervolume for g in study.generations()]
    assert volumes == sorted(volumes) and volumes[0] > 0
    # By hand: the area under the staircase, sizes relative to the reference of 10,000 bytes.
    rows = sorted((s.size_bytes / 10_000, s.metric) for s in study.front())
    ends = [x for x, _ in rows[1:]] + [1.0]
    area = sum((end - x) * y for (x, y), end in zip(rows, ends, strict=True))
    assert volumes[-1] == pytest.approx(area, rel=1e-12)
