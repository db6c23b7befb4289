"""The steady-state loop: a free worker gets the next child at once."""

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from moeash.backends.base import Backend
from moeash.core.candidate import Candidate
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.searches.base import Told
from moeash.searches.loop import Ending, Stop
from moeash.searches.steady import SteadyNsga2
from moeash.study.ledger import Ledger
from moeash.study.storage.records import EvaluationRecord


class Judge(Protocol):
    """What a study thinks of its evaluations."""

    def job_of(self, candidate: Candidate) -> Job:
        """Return the job of a candidate."""
        ...

    def see(self, record: EvaluationRecord) -> Told:
        """Take an evaluation into account; return what the search may learn of it."""
        ...

    @property
    def archive(self) -> Archive:
        """What a new evaluation has to beat: the same object until that changes."""
        ...

    def begin_block(self, index: int, n: int) -> None:
        """Announce generation ``index`` of ``n`` evaluations."""
        ...

    def end_block(self, index: int, elapsed_s: float) -> float:
        """Store generation ``index``; return the hypervolume so far."""
        ...


def run_steady(
    search: SteadyNsga2,
    backend: Backend,
    ledger: Ledger,
    judge: Judge,
    stop: Stop,
    *,
    population: int,
    look: Callable[[], None],
    clock: Callable[[], float] = time.monotonic,
) -> Ending:
    """Evaluate until a stopping rule holds; return which.

    A "generation" is every ``population`` evaluations. A study that is continued starts with the
    population its stored evaluations make, in the order of their numbers.
    """
    started = block_started = clock()
    n_records = 0
    running: dict[int, Job] = {}
    best, stalled = float("-inf"), 0
    ending: Ending | None = None

    def learn(records: Sequence[EvaluationRecord]) -> None:
        """Take records of one block into account."""
        nonlocal best, stalled, block_started, ending, n_records
        n_records += len(records)
        search.tell([r.candidate for r in records], [judge.see(r) for r in records])
        if n_records % population == 0:
            index = n_records // population
            now = clock()
            volume = judge.end_block(index, now - block_started)
            judge.begin_block(index + 1, population)
            block_started = now
            stalled = 0 if volume > best else stalled + 1
            best = max(best, volume)
            if stop.generations is not None and index >= stop.generations:
                ending = ending or "generations"
            if stop.no_gain is not None and stalled >= stop.no_gain:
                ending = ending or "no_gain"
        if stop.evaluations is not None and n_records >= stop.evaluations:
            ending = ending or "evaluations"
        if stop.wall_time_s is not None and clock() - started >= stop.wall_time_s:
            ending = ending or "wall_time"

    judge.begin_block(1, population)
    stored = sorted(ledger.known.values(), key=lambda r: r.number)
    replayed = [record for record in stored if record.stage == "search"]
    for first in range(0, len(replayed), population):
        block = replayed[first : first + population]
        for record in block:
            ledger.propose(record.job)
        learn(block)
    budgets = [stop.evaluations] if stop.evaluations is not None else []
    if stop.generations is not None:
        budgets.append(stop.generations * population)
    budget = min(budgets, default=None)
    while True:
        free = 0 if ending is not None else max(1, backend.n_slots) - len(running)
        if budget is not None:
            free = min(free, budget - n_records - len(running))
        if free > 0:
            for candidate in search.propose(free):
                job = judge.job_of(candidate)
                ledger.propose(job)
                running[backend.submit(job, judge.archive)] = job
            if not running:
                ending = "exhausted"
        if not running:
            break
        answers: list[tuple[Job, Outcome]] = []
        # Whatever else is there by now shares the commit and the sorting of the population.
        while not answers or (backend.n_ready and (n_records + len(answers)) % population):
            ticket, outcome = backend.next()
            answers.append((running.pop(ticket), outcome))
        learn(ledger.record_all(answers, "search", n_records // population + 1, None))
        look()
    if n_records % population:
        judge.end_block(n_records // population + 1, clock() - block_started)
    assert ending is not None
    return ending
