"""Run a study, or continue it: the two are the same.

Resume is replay. The search starts from generation 1 with its seed and is told the stored values,
so it proposes the same candidates again, answered from storage, until it passes the point where the
last process ended. Nothing is evaluated twice and there is no pickled optimiser state.
"""

import dataclasses
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import Any

import numpy as np

from moeash.backends.base import Backend, Baseline
from moeash.core.candidate import Candidate
from moeash.core.objectives import as_minimised
from moeash.core.recipe import Recipe
from moeash.errors import StorageError, StudyExistsError, StudyNotFoundError
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.evaluation.task import Task
from moeash.searches.base import Search, Told
from moeash.searches.enumerate import ExhaustiveSearch, RandomSearch
from moeash.searches.hypervolume import hypervolume
from moeash.searches.loop import ENDINGS, Ending, GenerationResult, Stop, optimise
from moeash.searches.nsga2 import Nsga2Search
from moeash.searches.space import Space
from moeash.searches.steady import SteadyNsga2
from moeash.study.course.options import BudgetOptions
from moeash.study.ledger import Ledger
from moeash.study.merging import FrontMerging
from moeash.study.plan import Plan, as_begun
from moeash.study.progress import Progress
from moeash.study.refining import refine
from moeash.study.solution import Solution, floor_of, front_of
from moeash.study.spec.identity import differences
from moeash.study.spec.spec import StudySpec
from moeash.study.steady import run_steady
from moeash.study.storage.base import Storage
from moeash.study.storage.records import (
    REMEASURED,
    EvaluationRecord,
    GenerationRecord,
    StudyFacts,
    StudyRecord,
)
from moeash.study.study import Study

MakeBackend = Callable[[Task], Backend]


def run(
    plan: Plan,
    storage: Storage,
    make_backend: MakeBackend,
    progress: Progress,
    *,
    retry_failed: bool = False,
) -> Study:
    """Run a study to its end, continuing it when it is stored already.

    Args:
        plan: the study.
        storage: where it is remembered.
        make_backend: makes where it is evaluated.
        progress: receives the events.
        retry_failed: evaluate again what has failed through no fault of its own.

    Raises:
        StudyLockedError: another process works on it.
        StudyExistsError: the name is taken by a different spec, network or evaluation set.
        StorageError: the database refused a write; everything stored before is safe.
    """
    with storage.lock(plan.spec.name):
        stored = _stored(storage, plan)
        if stored is None:
            n_threads = plan.task.n_threads or plan.default_threads
            task = dataclasses.replace(plan.task, n_threads=n_threads)
        else:
            task = as_begun(plan.task, stored.facts)
        backend = make_backend(task)
        try:
            watch = _Watch(storage, backend, progress)
            baseline = backend.open(watch.notify)
            record = _open_study(storage, plan, task, stored, baseline, progress)
            watch.begin(record.id)
            if retry_failed:
                n = storage.forget_retriable(record.id)
                progress.note(f"{n} failed evaluation{'s'[: n != 1]} will be tried again")
            for note in baseline.notes:
                progress.note(note)
            with _status_on_error(storage, record):
                _Runner(plan, storage, backend, progress, record, watch).run()
            watch.end()
        finally:
            backend.close()
    return Study(storage, plan.spec.name)


@contextmanager
def _status_on_error(storage: Storage, record: StudyRecord) -> Iterator[None]:
    """Record that a study was interrupted, or failed; the error itself goes on."""
    try:
        yield
    except BaseException as error:
        # When it is the database that fails, the first error is the one to report.
        with suppress(StorageError):
            interrupted = isinstance(
                error, KeyboardInterrupt | SystemExit
            )  # Ray ends so on SIGTERM
            storage.set_status(record.id, "interrupted" if interrupted else "failed")
        raise


def _stored(storage: Storage, plan: Plan) -> StudyRecord | None:
    """Return the stored study of that name after checking that it is the same one."""
    try:
        record = storage.study(plan.spec.name)
    except StudyNotFoundError:
        return None
    differing = differences(StudySpec.from_dict(record.facts.spec), plan.spec)
    if differing:
        raise StudyExistsError(
            f"study {plan.spec.name!r} exists with another specification ("
            + "; ".join(differing)
            + "); give this one another name"
        )
    return record


def _open_study(
    storage: Storage,
    plan: Plan,
    task: Task,
    stored: StudyRecord | None,
    baseline: Baseline,
    progress: Progress,
) -> StudyRecord:
    if stored is None:
        return storage.create_study(_facts(plan, task, baseline))
    for what, was, now in (
        ("network's weights", stored.facts.network_fingerprint, baseline.network_fingerprint),
        ("search split", stored.facts.data_fingerprint, baseline.data_fingerprint),
    ):
        if was != now:
            raise StudyExistsError(
                f"study {plan.spec.name!r} was started on another {what} (fingerprint {was[:12]}, "
                f"now {now[:12]}); give this one another name"
            )
    if stored.facts.baseline != baseline.metric:
        progress.note(
            f"the float network measures {baseline.metric} here, {stored.facts.baseline} when the "
            "study began; another machine or torch version rounds differently"
        )
    storage.set_status(stored.id, "running")
    return stored


def _facts(plan: Plan, task: Task, baseline: Baseline) -> StudyFacts:
    first = task.method.space()[0]
    worst = {
        "metric": baseline.reference,
        "size_bytes": float(baseline.original_bytes),
        "entries": float(first.high),
        "bits_per_weight": 32.0,
    }
    names = ("metric", *task.objectives)
    return StudyFacts(
        name=plan.spec.name,
        spec=plan.spec.to_dict(),
        fingerprint=plan.spec.fingerprint(),
        network_fingerprint=baseline.network_fingerprint,
        data_fingerprint=baseline.data_fingerprint,
        environment=environment(task)
        | {"keeping": baseline.keeping.as_dict()}
        | ({} if baseline.remeasured is None else {REMEASURED: baseline.remeasured}),
        metric_name=task.evaluation.metric,
        baseline=baseline.metric,
        original_bytes=baseline.original_bytes,
        n_shared=baseline.n_shared,
        n_kept=baseline.n_kept,
        n_batches=baseline.n_batches,
        objectives=tuple(task.objectives),
        reference=tuple(worst[name] for name in names),
    )


def environment(task: Task) -> dict[str, Any]:
    """Return what the numbers of a study were measured with."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pymoo")},
        "machine": platform.machine(),
        "device": task.evaluation.device,
        "threads": task.n_threads,
    }


def stop_of(budget: BudgetOptions) -> Stop:
    """Return the rules that end the search."""
    return Stop(budget.generations, budget.evaluations, budget.wall_time_s, budget.no_gain)


class _Runner:
    """One pass over a study, from generation 1 to the last merge."""

    def __init__(
        self,
        plan: Plan,
        storage: Storage,
        backend: Backend,
        progress: Progress,
        study: StudyRecord,
        watch: "_Watch",
    ) -> None:
        self._watch = watch
        self._plan = plan
        self._storage = storage
        self._backend = backend
        self._progress = progress
        self._study = study
        self._facts = study.facts
        self._ledger = Ledger(storage, study.id, progress)
        self._searched: dict[str, EvaluationRecord] = {}
        self._elite: list[Outcome] = []
        self._objectives = plan.task.objectives
        self.archive = Archive(self._objectives)
        self._floor = floor_of(self._facts.baseline, plan.spec.evaluation.max_drop)
        reference = np.array(self._facts.reference)
        self._reference = as_minimised(reference[:1], reference[1:])[0]

    def run(self) -> None:
        self._progress.started(self._facts, n_stored=len(self._ledger.known))
        space = Space(tuple(self._plan.task.method.space()))
        ending: Ending | None = None
        if self._plan.spec.search.algorithm == "steady_nsga2":
            ending = self._run_steady(space)
        else:
            rounds = optimise(
                self._search(space),
                self._evaluate_generation,
                stop_of(self._plan.spec.budget),
                space_size=space.size,
            )
            for generation in rounds:
                ending = generation.ending
        if ending is not None:
            self._progress.search_ended(ENDINGS[ending])
        self._refine_front()
        spec = self._plan.spec
        if spec.merge.trials and spec.method.mergeable:
            self._merge_front()
        elif spec.merge.trials:
            self._progress.note(
                f"entries of method {spec.method.name!r} as configured are not merged"
            )
        self._storage.set_status(self._study.id, "finished", ending)

    def _search(self, space: Space) -> Search:
        table = self._plan.spec.search
        if table.algorithm == "exhaustive":
            return ExhaustiveSearch(space, population=table.population)
        if table.algorithm == "random":
            return RandomSearch(space, population=table.population, seed=self._plan.spec.seed)
        return Nsga2Search(
            space,
            n_objectives=1 + len(self._objectives),
            population=table.population,
            seed=self._plan.spec.seed,
            initial=table.initial,
        )

    # ------------------------------------------------------------------ steady state

    def _run_steady(self, space: Space) -> Ending:
        table = self._plan.spec.search
        search = SteadyNsga2(
            space,
            n_objectives=1 + len(self._objectives),
            population=table.population,
            seed=self._plan.spec.seed,
            initial=table.initial,
        )
        return run_steady(
            search,
            self._backend,
            self._ledger,
            self,
            stop_of(self._plan.spec.budget),
            population=table.population,
            look=self._watch.look,
        )

    def job_of(self, candidate: Candidate) -> Job:
        return Job(Recipe(candidate), self._floor)

    def see(self, record: EvaluationRecord) -> Told:
        self._searched[record.job.key] = record
        if self._wanted(record):
            elite = [*self._elite, record.outcome]
            self.archive = Archive.of(self._objectives, elite)
            self._elite = [o for o in elite if not self.archive.rules_out(_metric(o), _sizes(o))]
        return self._told(record)

    def begin_block(self, index: int, n: int) -> None:
        self._progress.generation_started(index, n_candidates=n, n_new=n)

    def end_block(self, index: int, elapsed_s: float) -> float:
        front = front_of(self._wanted_solutions(self._searched.values()))
        volume = self._hypervolume(front)
        self._end_generation(index, volume, len(front), self._searched.values(), elapsed_s)
        return volume

    # ------------------------------------------------------------------ generations

    def _evaluate_generation(self, index: int, candidates: Sequence[Any]) -> GenerationResult:
        started = time.perf_counter()
        jobs = [Job(Recipe(candidate), self._floor) for candidate in candidates]
        n_new = len({j.key for j in jobs} - self._ledger.known.keys())
        self._progress.generation_started(index, n_candidates=len(jobs), n_new=n_new)
        # Fixed for the whole generation, so that no outcome depends on the order of evaluation.
        archive = Archive.of(
            self._objectives, [r.outcome for r in self._searched.values() if self._wanted(r)]
        )
        records = self._answer(jobs, archive, generation=index)
        self._searched |= {record.job.key: record for record in records}
        front = front_of(self._wanted_solutions(self._searched.values()))
        volume = self._hypervolume(front)
        self._end_generation(index, volume, len(front), records, time.perf_counter() - started)
        return GenerationResult(
            told=[self._told(record) for record in records],
            n_evaluations=len(self._searched),
            hypervolume=volume,
        )

    def _end_generation(
        self,
        index: int,
        volume: float,
        n_front: int,
        records: Iterable[EvaluationRecord],
        elapsed_s: float,
    ) -> None:
        own = {r.number: r for r in records if r.generation == index}
        generation = GenerationRecord(
            index=index,
            hypervolume=volume,
            n_evaluations=len(self._searched),
            n_front=n_front,
            n_batches=sum(r.outcome.n_batches for r in own.values()),
            elapsed_s=elapsed_s,
        )
        self._storage.put_generation(self._study.id, generation)
        self._progress.generation_ended(generation)

    def _wanted(self, record: EvaluationRecord) -> bool:
        metric = record.outcome.metric
        return metric is not None and metric >= self._floor

    def _wanted_solutions(self, records: Iterable[EvaluationRecord]) -> list[Solution]:
        return [Solution(self._facts, record) for record in records if self._wanted(record)]

    def _hypervolume(self, front: Sequence[Solution]) -> float:
        if not front:
            return 0.0
        metric = np.array([s.metric for s in front])
        sizes = np.array([_sizes(s.record.outcome).vector(self._objectives) for s in front])
        # Relative to the reference box's sizes, so that studies of different networks compare.
        scale = np.abs(np.where(self._reference == 0, 1.0, self._reference))
        scale[0] = 1.0
        return hypervolume(as_minimised(metric, sizes) / scale, self._reference / scale)

    def _told(self, record: EvaluationRecord) -> Told:
        outcome = record.outcome
        if outcome.status == "failed":
            return Told(None)
        # A stopped evaluation enters with the best it could still have been: dominated already,
        # and the only statement about it that is true.
        assert outcome.bound is not None
        f = as_minimised(
            np.array([outcome.bound]), np.array([_sizes(outcome).vector(self._objectives)])
        )[0]
        return Told(tuple(f.tolist()), max(0.0, self._floor - outcome.bound))

    # ------------------------------------------------------------------ answering jobs

    def _answer(
        self, jobs: Sequence[Job], archive: Archive, *, generation: int
    ) -> list[EvaluationRecord]:
        """Return the record of every job, from storage or newly evaluated, in the jobs' order."""
        new = {job.key: job for job in jobs if self._ledger.propose(job) is None}
        missing = list(new.values())
        answers: list[tuple[Job, Outcome]] = []
        for position, outcome in self._backend.map(missing, archive):
            answers.append((missing[position], outcome))
            # A commit waits for the disk. What has arrived meanwhile shares the next one.
            if not self._backend.n_ready:
                self._ledger.record_all(answers, "search", generation, None)
                answers.clear()
                self._watch.look()
        return [self._ledger.known[job.key] for job in jobs]

    # ------------------------------------------------------------------ refining and merging

    def _refine_front(self) -> None:
        """Make the front's solutions again with more effort, where the method has a way."""
        wanted = [record for record in self._searched.values() if self._wanted(record)]
        front = front_of([Solution(self._facts, record) for record in wanted])
        refined = refine(
            [solution.record for solution in front],
            self._plan.task.method,
            self._plan.spec.refine.solutions,
            backend=self._backend,
            ledger=self._ledger,
            progress=self._progress,
            archive=Archive.of(self._objectives, [record.outcome for record in wanted]),
            floor=self._floor,
        )
        self._searched |= {record.job.key: record for record in refined}

    def _merge_front(self) -> None:
        """Merge neighbouring entries of the front's solutions while their metric holds."""
        options = self._plan.spec.merge
        solutions = []
        for solution in front_of(self._wanted_solutions(self._searched.values())):
            floor = solution.metric
            if options.max_drop is not None:
                floor = self._facts.baseline - options.max_drop
            if solution.metric >= floor:
                solutions.append((solution.record, floor))
        FrontMerging(
            self._backend,
            self._ledger,
            self._progress,
            archive=Archive(self._objectives),
            cost="sse",
            max_trials=options.trials,
        ).run(solutions)


class _Watch:
    """Tells storage and people what happens to the workers."""

    def __init__(self, storage: Storage, backend: Backend, progress: Progress) -> None:
        self._storage = storage
        self._backend = backend
        self._progress = progress
        self._study_id: int | None = None
        self._early: list[str] = []
        self._workers: int | None = None

    def notify(self, text: str) -> None:
        """Pass on one event; those before the study exists are stored when it does."""
        self._progress.note(text)
        if self._study_id is None:
            self._early.append(text)
        else:
            self._storage.add_event(self._study_id, text)
            self.look()

    def begin(self, study_id: int) -> None:
        """Start to write to a study."""
        self._study_id = study_id
        for text in self._early:
            self._storage.add_event(study_id, text)
        self.look()

    def look(self) -> None:
        """Store the number of workers when it has changed."""
        workers = self._backend.workers
        if self._study_id is not None and workers != self._workers:
            self._workers = workers
            self._storage.set_workers(self._study_id, workers)

    def end(self) -> None:
        """Store that nobody works on the study any more."""
        if self._study_id is not None:
            self._storage.set_workers(self._study_id, 0)


def _metric(outcome: Outcome) -> float:
    assert outcome.metric is not None
    return outcome.metric


def _sizes(outcome: Outcome) -> Any:
    assert outcome.sizes is not None
    return outcome.sizes
