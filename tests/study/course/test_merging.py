"""The merge phase with many slots, in any order of arrival: the serial sequence, nothing lost."""

import hashlib

import numpy as np
import pytest

from moeash.core.codebook import Codebook, Parameter, share
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.evaluation.outcome import Archive, Job
from moeash.study.course.budget import Budget
from moeash.study.course.merging import PATIENCE, Merging
from moeash.study.course.options import BudgetOptions
from moeash.study.course.phase import Proposal
from tests.marks import slow
from tests.study.course.driving import Desk, Slots, complete

N_ENTRIES = 9
NOTHING = Archive(("size_bytes",))


def build(recipe):
    """Return a network whose one tensor uses every entry, some more often than others."""
    k = int(recipe.candidate["k"])
    rng = np.random.default_rng(k)
    indices = np.concatenate([np.arange(N_ENTRIES), rng.integers(0, N_ENTRIES, 40)])
    indices = indices.astype(np.uint8)
    counts = np.bincount(indices, minlength=N_ENTRIES).astype(np.int64)
    parameter = Parameter("w", (indices.size,), "float32", "shared", None)
    codebook = Codebook(np.sort(rng.normal(size=N_ENTRIES)).astype(np.float32))
    return share((parameter,), [codebook], {"w": (0, indices, counts)}, {})


def luck(job):
    digest = hashlib.blake2b(job.key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2**32


def trial(job, *, kept=0.4):
    """Merges keep the metric with a probability, and a byte is saved for every entry."""
    (merge,) = job.recipe.steps
    metric = 0.9 if luck(job) < kept else 0.1
    return complete(metric, 1000 + 10 * len(merge.runs), len(merge.runs), job.key[-20:])


def merge(desk, backend, *, n=4, trials=6, options=None):
    """Store ``n`` solutions, if they are not, and merge them."""
    answers = []
    for k in range(1, n + 1):
        job = Job(Recipe.of({"k": k}))
        answers.append((Proposal(job, NOTHING, "search", 1), complete(0.8, 1000 + 10 * N_ENTRIES)))
    parents = desk.ledger.store(answers)
    phase = Merging(
        [(parent, 0.8) for parent in parents],
        Budget(options or BudgetOptions()),
        desk.journal,
        archive=NOTHING,
        trials=trials,
        build=build,
        outcome=desk.ledger.outcome,
        n_evaluations=lambda: desk.ledger.n_proposed,
    )
    desk.run(phase, backend)
    return phase


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    desk = Desk(tmp_path_factory.mktemp("serial"))
    merge(desk, Slots(trial))
    return desk


def test_the_serial_pass_follows_accepted_merges_and_stops_at_its_trials(serial):
    records = serial.records()
    for parent in range(1, 5):
        runs = (1,) * N_ENTRIES
        mine = [r for r in records if r.parent == parent]
        assert len(mine) == 6
        for record in mine:
            (step,) = record.recipe.steps
            assert isinstance(step, Merge)
            assert len(step.runs) == len(runs) - 1 and sum(step.runs) == N_ENTRIES
            if record.outcome.metric >= 0.8:
                runs = step.runs
    assert [r.number for r in records] == list(range(1, 4 + 24 + 1))


@pytest.mark.parametrize("seed", [0, 1, slow(2), slow(3), slow(4)])
@pytest.mark.parametrize("n_slots", [2, 5])
def test_many_slots_in_any_order_store_the_serial_sequence(tmp_path, serial, seed, n_slots):
    desk = Desk(tmp_path)
    backend = Slots(trial, n_slots, seed=seed)
    merge(desk, backend)
    assert desk.sequence() == serial.sequence()
    assert backend.most_out == n_slots, "slots were used"
    assert max(backend.evaluated.values()) == 1
    assert desk.storage.held(desk.id) == {}


@pytest.mark.parametrize("n_slots", [1, 5])
def test_people_hear_of_solutions_in_the_serial_order(tmp_path, serial, n_slots):
    desk = Desk(tmp_path)
    merge(desk, Slots(trial, n_slots, seed=3))
    kinds = ("solution_merging", "solution_merged", "evaluated")
    story = [e.payload() for e in desk.heard if e.kind in kinds]
    assert story == [e.payload() for e in serial.heard if e.kind in kinds]


@pytest.mark.parametrize("after", [1, slow(4), 9, slow(15), slow(20)])
def test_what_ran_ahead_survives_a_crash(tmp_path, serial, after):
    first = Slots(trial, 5, seed=after, die_after=after)
    with pytest.raises(KeyboardInterrupt):
        merge(Desk(tmp_path), first)
    second = Slots(trial, 5, seed=after)
    desk = Desk(tmp_path)
    merge(desk, second)
    assert desk.sequence() == serial.sequence()
    both = first.evaluated + second.evaluated
    assert max(both.values()) == 1, "an evaluation was lost and repeated"
    assert desk.storage.held(desk.id) == {}


@pytest.mark.parametrize("n_slots", [1, 5])
def test_a_budget_of_evaluations_ends_merging_where_the_serial_pass_would(
    tmp_path, serial, n_slots
):
    desk = Desk(tmp_path)
    phase = merge(desk, Slots(trial, n_slots), options=BudgetOptions(evaluations=13))
    assert phase.ending == "evaluations"
    assert desk.sequence() == serial.sequence()[:13]


def test_time_that_is_up_begins_no_merge(tmp_path):
    desk = Desk(tmp_path)
    backend = Slots(trial)
    phase = merge(desk, backend, options=BudgetOptions(wall_time_s=1e-9))
    assert phase.ending == "wall_time" and not backend.evaluated


@pytest.mark.parametrize("n_slots", [1, 5])
def test_merging_that_gains_nothing_ends_early(tmp_path, n_slots):
    desk = Desk(tmp_path)
    phase = merge(desk, Slots(lambda job: trial(job, kept=0.0), n_slots), n=PATIENCE + 3)
    assert phase.ending == "no_longer_pays"
    assert len(desk.events("solution_merged")) == PATIENCE
    assert {r.parent for r in desk.records() if r.parent} == set(range(1, PATIENCE + 1))


def test_merging_that_gains_goes_on_to_the_last_solution(tmp_path):
    desk = Desk(tmp_path)
    phase = merge(desk, Slots(trial), n=PATIENCE + 3)
    assert phase.ending == "complete"
    assert len(desk.events("solution_merged")) == PATIENCE + 3
