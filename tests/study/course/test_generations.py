import itertools

import pytest

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Integer
from moeash.study.course.budget import Budget
from moeash.study.course.generations import STALE_GENERATIONS, Generations
from moeash.study.course.options import BudgetOptions
from moeash.study.course.standing import Standing
from tests.study.course.driving import Desk, Slots, complete


class Counting:
    """Proposes 1, 2, 3, ... two at a time, up to a last one; or the same two for ever."""

    def __init__(self, last=10**6, repeat=False):
        self.numbers = itertools.cycle([1, 2]) if repeat else iter(range(1, last + 1))
        self.told = []

    def ask(self):
        return [Candidate.of({"k": k}) for k in itertools.islice(self.numbers, 2)]

    def tell(self, told):
        self.told.append(list(told))


def worth(job):
    k = int(job.recipe.candidate["k"])
    return complete(0.9 - 0.5 / k, 100 * k, fingerprint=f"f{k}")


def search(folder, options, *, proposer=None, last=10**6, backend=None, evaluate=worth):
    desk = Desk(folder)
    standing = Standing(desk.facts, None)
    phase = Generations(
        proposer or Counting(),
        standing,
        Budget(options),
        desk.journal,
        widening=desk.widening(standing, Integer("k", 1, last)),
        known=desk.ledger.known,
    )
    desk.run(phase, backend or Slots(evaluate))
    return desk, phase


@pytest.mark.parametrize(
    ("options", "arguments", "ending", "n_generations"),
    [
        (BudgetOptions(generations=3), {}, "generations", 3),
        (BudgetOptions(evaluations=7), {}, "evaluations", 4),
        (BudgetOptions(generations=99), {"last": 10}, "exhausted", 5),
        (BudgetOptions(generations=5), {"last": 10}, "exhausted", 5),
        (BudgetOptions(generations=99), {"proposer": Counting(last=5)}, "exhausted", 3),
        (BudgetOptions(generations=9), {"proposer": Counting(last=0)}, "exhausted", 0),
    ],
)
def test_the_search_ends_when_a_rule_or_the_space_says_so(
    tmp_path, options, arguments, ending, n_generations
):
    desk, phase = search(tmp_path, options, **arguments)
    assert phase.ending == ending
    stored = desk.storage.generations(desk.id)
    assert [g.index for g in stored] == list(range(1, n_generations + 1))


@pytest.mark.parametrize("n_slots", [1, 4])
def test_a_budget_of_evaluations_is_kept_exactly_in_the_middle_of_a_generation(tmp_path, n_slots):
    desk, phase = search(tmp_path, BudgetOptions(evaluations=7), backend=Slots(worth, n_slots))
    assert phase.ending == "evaluations"
    assert [r.candidate["k"] for r in desk.records()] == list(range(1, 8))
    assert desk.storage.generations(desk.id)[-1].n_evaluations == 7


def test_a_generation_cut_short_by_the_budget_is_completed_by_a_larger_one(tmp_path):
    (tmp_path / "cut").mkdir()
    search(tmp_path / "cut", BudgetOptions(evaluations=5))
    backend = Slots(worth)
    continued, _ = search(tmp_path / "cut", BudgetOptions(generations=4), backend=backend)
    assert sum(backend.evaluated.values()) == 3
    (tmp_path / "whole").mkdir()
    whole, _ = search(tmp_path / "whole", BudgetOptions(generations=4))
    assert continued.sequence() == whole.sequence()
    counts = [g.n_evaluations for g in continued.storage.generations(continued.id)]
    assert counts == [2, 4, 6, 8]


def test_a_search_that_only_repeats_itself_counts_as_exhausted(tmp_path):
    desk, phase = search(tmp_path, BudgetOptions(evaluations=10**6), proposer=Counting(repeat=True))
    assert phase.ending == "exhausted"
    assert len(desk.storage.generations(desk.id)) == 1 + STALE_GENERATIONS
    assert len(desk.records()) == 2


def test_the_search_is_told_every_generation_in_the_order_it_proposed(tmp_path):
    proposer = Counting(last=5)
    search(tmp_path, BudgetOptions(generations=99), proposer=proposer, backend=Slots(worth, 4))
    assert [[f.minimised[1] for f in told] for told in proposer.told] == [
        [100.0, 200.0],
        [300.0, 400.0],
        [500.0],
    ]


@pytest.mark.parametrize("seed", range(3))
def test_many_slots_in_any_order_store_the_serial_sequence(tmp_path, seed):
    desks = []
    for name, backend in (("one", Slots(worth)), ("many", Slots(worth, 4, seed=seed))):
        (tmp_path / name).mkdir()
        desks.append(search(tmp_path / name, BudgetOptions(generations=4), backend=backend)[0])
    assert desks[0].sequence() == desks[1].sequence()


def test_a_continued_search_evaluates_nothing_twice_and_ends_the_same(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, BudgetOptions(generations=4), backend=Slots(worth, die_after=5))
    backend = Slots(worth)
    desk, _ = search(tmp_path, BudgetOptions(generations=4), backend=backend)
    assert sum(backend.evaluated.values()) == 3
    assert [r.number for r in desk.records()] == list(range(1, 9))
    assert len(desk.storage.generations(desk.id)) == 4


def test_a_metric_below_zero_has_a_hypervolume_that_grows(tmp_path):
    def loss(job):
        k = int(job.recipe.candidate["k"])
        return complete(-5.0 / k, 100 * (k + 1), fingerprint=f"f{k}")

    desk = Desk(tmp_path, baseline=-0.1, reference=(None, 40_000.0))
    standing = Standing(desk.facts, None)
    phase = Generations(
        Counting(),
        standing,
        Budget(BudgetOptions(generations=9, no_gain=2)),
        desk.journal,
        widening=desk.widening(standing),
        known={},
    )
    assert desk.run(phase, Slots(loss)) == "generations"
    volumes = [g.hypervolume for g in desk.storage.generations(desk.id)]
    assert volumes[0] > 0
    assert all(later > earlier for earlier, later in itertools.pairwise(volumes))
