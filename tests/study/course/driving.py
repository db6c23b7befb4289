"""Run one phase with a real pump, ledger and database, and made-up outcomes."""

import random
from collections import Counter

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.variables import Integer
from moeash.evaluation.outcome import Outcome
from moeash.searches.space import Space
from moeash.study.course.journal import Journal
from moeash.study.course.ledger import Ledger
from moeash.study.course.pump import Pump
from moeash.study.course.widening import Widening
from tests.contracts.storage import facts
from tests.databases import stored_at

K = Integer("k", 1, 10**6)


def complete(metric, size_bytes, entries=2, fingerprint="f"):
    return Outcome("complete", metric, metric, Sizes(size_bytes, entries, 1.0), fingerprint, 1, 0.1)


class Slots:
    """A backend of so many slots; what is out comes back in any order, several at a time."""

    def __init__(self, evaluate, n_slots=1, *, seed=0, die_after=None):
        self._evaluate = evaluate
        self.n_slots = self.workers = n_slots
        self._random = random.Random(seed)
        self._die_after = die_after
        self._out = {}
        self._n = 0
        self.evaluated = Counter()
        self.most_out = 0

    @property
    def n_ready(self):
        n_done = sum(self.evaluated.values())
        if self._die_after is not None and n_done >= self._die_after:
            return 0
        return self._random.randrange(2) if len(self._out) > 1 else 0

    def submit(self, job, archive):
        self._n += 1
        self._out[self._n] = job, archive
        self.most_out = max(self.most_out, len(self._out))
        return self._n

    def wait(self, n_slots):
        return True

    def next(self):
        if self._die_after is not None and sum(self.evaluated.values()) >= self._die_after:
            raise KeyboardInterrupt
        ticket = self._random.choice(list(self._out))
        job, _ = self._out.pop(ticket)
        self.evaluated[job.key] += 1
        return ticket, self._evaluate(job)

    def cancel(self, ticket):
        del self._out[ticket]


class Desk:
    """A database with one study, and whatever is needed to run phases on it."""

    def __init__(self, folder, **changes):
        self.storage = stored_at(str(folder / "study.db"))
        self.heard = []
        self.facts = facts(**changes)
        names = [record.facts.name for record in self.storage.studies()]
        if self.facts.name not in names:
            self.storage.create_study(self.facts)
        self.id = self.storage.study(self.facts.name).id
        self.journal = Journal(self.storage, self.heard.append)
        self.journal.begin(self.id)
        self.ledger = Ledger(self.storage, self.id, self.journal)

    def widening(self, standing, *variables):
        return Widening(Space(variables or (K,)), standing, self.journal)

    def run(self, phase, backend):
        Pump(backend, self.ledger, self.journal).run(phase)
        return phase.ending

    def records(self):
        return list(self.storage.evaluations(self.id))

    def sequence(self):
        return [
            (r.number, r.stage, r.generation, r.parent, r.job.key, r.outcome.metric)
            for r in self.records()
        ]

    def events(self, kind):
        return [event for event in self.heard if event.kind == kind]
