"""The merge phase of a real study: the phase by itself is tested in course/test_merging.py."""

import random
from collections import Counter

import pytest

from moeash.backends.inprocess import InProcessBackend
from tests.backends.studies import Listener, run_study, sequence, spec

CHANGES = {"merge__trials": 6, "budget": {"generations": 2}}


class ManySlots(InProcessBackend):
    """Several jobs are out at a time and come back in any order."""

    n_slots = 5

    def __init__(self, task, *, seed=0, die_after=None):
        super().__init__(task)
        self.random = random.Random(seed)
        self.die_after = die_after
        self.evaluated = Counter()
        self.most_out = 0

    def next(self):
        trials = sum(bool(job.recipe.steps) for job, _ in self.queue.values())
        self.most_out = max(self.most_out, trials)
        ticket = self.random.choice(list(self.queue))
        job, archive = self.queue.pop(ticket)
        if self.die_after is not None and sum(self.evaluated.values()) >= self.die_after:
            raise KeyboardInterrupt
        self.evaluated[job.key] += 1
        return ticket, self.evaluate(job, archive)


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The serial study, and what people heard of its merges."""
    told = Listener()
    study = run_study(tmp_path_factory.mktemp("serial"), spec(**CHANGES), listen=told)
    return study, story(told)


def story(told):
    kinds = ("solution_merging", "solution_merged")
    return [event.payload() for event in told.events if event.kind in kinds]


@pytest.mark.slow
def test_a_study_on_many_slots_that_crashes_while_it_merges_is_the_serial_one(tmp_path, serial):
    study, told_of = serial
    searched = sum(r.stage == "search" for r in study.evaluations())
    made = []

    def make(task):
        made.append(ManySlots(task, seed=1, die_after=None if made else searched + 4))
        return made[-1]

    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, spec(**CHANGES), make_backend=make)
    told = Listener()
    again = run_study(tmp_path, spec(**CHANGES), make_backend=make, listen=told)
    assert sequence(again) == sequence(study)
    assert story(told) == told_of != []
    assert made[1].most_out == 5, "slots were used"
    assert max((made[0].evaluated + made[1].evaluated).values()) == 1, "nothing twice"
    assert again.storage.held(again.record.id) == {}
