"""A plan: everything the runner needs, whether it came from a TOML spec or from Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from moeash.backends.base import Backend
from moeash.backends.inprocess import InProcessBackend
from moeash.backends.options import BackendOptions
from moeash.backends.ray import RayBackend
from moeash.core.kept import Keeping
from moeash.errors import InputError
from moeash.evaluation.task import Task, available_cores
from moeash.searches.loop import Stop
from moeash.study.facts import StudyFacts
from moeash.study.identity import with_choices
from moeash.study.spec import (
    BackendTable,
    MergeTable,
    RefineTable,
    SearchTable,
    StudySpec,
    parse_spec,
)
from moeash.study.study import Study


@dataclass(frozen=True)
class Plan:
    """A study to run.

    Attributes:
        name: of the study.
        spec: plain JSON values that describe it, stored with it.
        fingerprint: digest of what identifies it beside network and data.
        task: what candidates are evaluated on.
        search: how candidates are proposed.
        refine: what is done with the front once the search has ended.
        merge: the merge pass.
        stop: when the search ends.
        max_drop: solutions further below the baseline are not wanted; None keeps all.
        seed: of the search.
        backend: where candidates are evaluated.
    """

    name: str
    spec: Mapping[str, Any]
    fingerprint: str
    task: Task
    search: SearchTable
    refine: RefineTable
    merge: MergeTable
    stop: Stop
    max_drop: float | None
    seed: int
    backend: BackendTable = field(default_factory=BackendTable)

    @property
    def default_threads(self) -> int:
        """Threads of a study that does not say: all cores in process, a worker's CPUs on Ray."""
        if self.backend.kind == "inprocess":
            return available_cores()
        return max(1, int(self.backend.cpus_per_worker or 1))

    def make_backend(self, task: Task) -> Backend:
        """Return where to evaluate ``task``."""
        table = self.backend
        if table.kind == "inprocess":
            return InProcessBackend(task)
        return RayBackend(task, options_of(table), start_timeout_s=table.start_timeout_s)

    @classmethod
    def from_spec(cls, spec: StudySpec) -> "Plan":
        """Return the plan of a TOML spec."""
        return cls(
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            fingerprint=spec.fingerprint(),
            task=spec.task(),
            search=spec.search,
            refine=spec.refine,
            merge=spec.merge,
            stop=spec.stop(),
            max_drop=spec.evaluation.max_drop,
            seed=spec.seed,
            backend=spec.backend,
        )


def options_of(table: BackendTable) -> BackendOptions:
    """Return the options of ``[backend]``.

    Raises:
        InputError: a fewest number of workers without a most.
    """
    workers = table.workers or table.max_workers
    if isinstance(workers, int) and (table.release_idle or table.min_workers is not None):
        workers = (table.min_workers or 0, workers)
    if workers is None and (table.release_idle or table.min_workers):
        raise InputError("a fewest number of workers needs a most; give workers = [FEWEST, MOST]")
    return BackendOptions(
        kind=table.kind,
        address=table.address,
        workers=workers,
        cpus_per_worker=table.cpus_per_worker,
        gpus_per_worker=table.gpus_per_worker,
        timeout_s=table.timeout_s,
        max_tries=table.max_tries,
    )


def task_of(study: Study) -> Task:
    """Return the task of a study, from the module it was searched with or from its stored spec.

    Raises:
        InputError: the study was made by :func:`search` in another process, so that only its
            caller has the module.
    """
    if study.task is not None:
        return study.task
    if "network" not in study.facts.spec or "source" not in study.facts.spec["network"]:
        raise InputError(
            f"study {study.name!r} was searched from Python and its module is not stored; "
            "call moeash.search again with the same name and storage (nothing is evaluated "
            "twice) and export the study it returns"
        )
    spec = with_choices(study.facts.spec)
    task = parse_spec(spec, where=f"stored spec of {study.name!r}").task()
    return as_begun(task, study.facts)


def as_begun(task: Task, facts: StudyFacts) -> Task:
    """Return a task as it was when its study began: as many threads, kept tensors stored alike."""
    return replace(
        task,
        n_threads=facts.environment["threads"],
        keeping=Keeping.from_dict(facts.keeping),
    )
