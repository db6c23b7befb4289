"""The merge pass with many slots, in any order of arrival: the serial sequence, nothing lost."""

import random
from collections import Counter

import pytest

from moeash.backends.inprocess import InProcessBackend
from tests.backends.studies import Notes, run_study, sequence, spec

CHANGES = {"merge__trials": 9, "budget": {"generations": 2}, "merge__max_drop": 0.05}


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
    return run_study(tmp_path_factory.mktemp("serial"), spec(**CHANGES))


class Story(Notes):
    """Keeps the merge pass as a person hears of it."""

    def __init__(self):
        super().__init__()
        self.story = []

    def evaluated(self, record, *, stored_before):
        if record.stage == "merged":
            self.story.append(record.number)

    def merge_started(self, parent, *, position, total):
        self.story.append((parent.number, position, total))

    def merge_ended(self, parent, *, entries, trials):
        self.story.append((parent.number, entries, trials))


@pytest.mark.parametrize("seed", range(3))
def test_many_slots_in_any_order_store_the_serial_sequence(tmp_path, serial, seed):
    backends = []

    def make(task):
        backends.append(ManySlots(task, seed=seed))
        return backends[0]

    study = run_study(tmp_path, spec(**CHANGES), make_backend=make)
    assert sequence(study) == sequence(serial)
    assert backends[0].most_out == 5, "slots were used"
    assert max(backends[0].evaluated.values()) == 1
    assert study.storage.held(study.record.id) == {}


def test_people_hear_of_merges_in_the_serial_order(tmp_path):
    stories = []
    for name, make in (("one", InProcessBackend), ("many", ManySlots)):
        progress = Story()
        run_study(tmp_path, spec(name, **CHANGES), make_backend=make, progress=progress)
        stories.append(progress.story)
    assert stories[0] == stories[1]


@pytest.mark.parametrize("after", [1, 4, 9, 15])
def test_what_ran_ahead_survives_a_crash(tmp_path, serial, after):
    made = []

    def make(task):
        made.append(ManySlots(task, seed=after, die_after=after if not made else None))
        return made[-1]

    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, spec(**CHANGES), make_backend=make)
    study = run_study(tmp_path, spec(**CHANGES), make_backend=make)
    assert sequence(study) == sequence(serial)
    both = made[0].evaluated + made[1].evaluated
    assert max(both.values()) == 1, "an evaluation was lost and repeated"
