"""A plan: a study's spec with what is alive, whether it came from a TOML file or from Python."""

from dataclasses import dataclass, replace

from moeash.backends.base import Backend
from moeash.backends.inprocess import InProcessBackend
from moeash.backends.ray import RayBackend, RayOptions
from moeash.core.kept import Keeping
from moeash.evaluation.task import Task, available_cores
from moeash.study.spec.spec import StudySpec
from moeash.study.storage.records import StudyFacts
from moeash.study.study import Study


@dataclass(frozen=True)
class Plan:
    """A study to run.

    Attributes:
        spec: describes it.
        task: what candidates are evaluated on.
    """

    spec: StudySpec
    task: Task

    @property
    def default_threads(self) -> int:
        """Threads of a study that does not say: all cores in process, a worker's CPUs on Ray."""
        if self.spec.backend.kind == "inprocess":
            return available_cores()
        return max(1, int(self.spec.backend.cpus_per_worker or 1))

    def make_backend(self, task: Task) -> Backend:
        """Return where to evaluate ``task``."""
        options = self.spec.backend
        if options.kind == "inprocess":
            return InProcessBackend(task)
        return RayBackend(
            task,
            RayOptions(
                address=options.address,
                min_workers=options.fewest_workers,
                max_workers=options.most_workers,
                cpus_per_worker=options.cpus_per_worker,
                gpus_per_worker=options.gpus_per_worker,
                timeout_s=options.timeout_s,
                max_tries=options.max_tries,
                release_idle=isinstance(options.workers, tuple),
            ),
        )

    @classmethod
    def from_spec(cls, spec: StudySpec) -> "Plan":
        """Return the plan of a spec whose network and data have sources."""
        return cls(spec, spec.task())


def task_of(study: Study) -> Task:
    """Return the task of a study, from the module it was searched with or from its stored spec.

    Raises:
        InputError: the study was made by :func:`search` in another process, so that only its
            caller has the module.
    """
    if study.task is not None:
        return study.task
    return as_begun(study.spec.task(), study.facts)


def as_begun(task: Task, facts: StudyFacts) -> Task:
    """Return a task as it was when its study began: as many threads, kept tensors stored alike."""
    keeping = facts.environment.get("keeping")
    return replace(
        task,
        n_threads=facts.environment["threads"],
        keeping=None if keeping is None else Keeping.from_dict(keeping),
    )
