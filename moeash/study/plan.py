"""A plan: a study's spec with what is alive, whether it came from a TOML file or from Python."""

from dataclasses import dataclass, replace

from moeash.backends.base import Backend
from moeash.backends.inprocess import InProcessBackend
from moeash.backends.ray import RayBackend
from moeash.core.kept import Keeping
from moeash.evaluation.task import Task
from moeash.networks.devices import obstacle
from moeash.runtime.threads import default_threads
from moeash.study.consent import check_allowed
from moeash.study.facts import StudyFacts
from moeash.study.spec.spec import StudySpec
from moeash.study.spec.starting import with_start
from moeash.study.storage.base import Storage
from moeash.study.storage.records import StudyRecord
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

    @classmethod
    def from_spec(cls, spec: StudySpec) -> "Plan":
        """Return the plan of a spec whose network and data have sources.

        Raises:
            InputError: the solution to begin with cannot be read.
        """
        spec = with_start(spec)
        return cls(spec, spec.task())

    @property
    def default_threads(self) -> int:
        """Threads of a study that does not say: those there are, and on Ray a worker's CPUs."""
        if self.spec.backend.kind == "inprocess":
            return default_threads()
        return max(1, int(self.spec.backend.cpus_per_worker or 1))

    def task_for(self, stored: StudyRecord | None, storage: Storage) -> Task:
        """Return the task to evaluate: as it was when the study began, if it has begun."""
        if stored is not None:
            return as_begun(self.task, stored.facts, storage)
        return replace(
            self.task,
            n_threads=self.task.n_threads or self.default_threads,
            preparations=storage.beside("prepared"),
        )

    def make_backend(self, task: Task) -> Backend:
        """Return where to evaluate ``task``."""
        if self.spec.backend.kind == "inprocess":
            return InProcessBackend(task)
        return RayBackend(task, self.spec.backend)


def task_of(study: Study) -> Task:
    """Return the task of a study, from the module it was searched with or from its stored spec.

    A study that ran on a GPU is read on the CPU where there is none: weights that come out
    otherwise are refused as such, and what was trained is a file.

    Raises:
        InputError: the study was made by :func:`moeash.search` in another process, so that only
            its caller has the module; or its spec names code that nobody has allowed to run.
    """
    task = study.task
    if task is None:
        check_allowed(study)
        task = _on_what_is_here(study.spec.task())
    task = as_begun(task, study.facts, study.storage)
    return replace(task, holdout_fingerprint=study.holdout_fingerprint)


def _on_what_is_here(task: Task) -> Task:
    evaluation = task.evaluation
    if obstacle(evaluation.device) is None:
        return task
    precision = "float32" if evaluation.precision == "tf32" else evaluation.precision
    return replace(task, evaluation=replace(evaluation, device="cpu", precision=precision))


def as_begun(task: Task, facts: StudyFacts, storage: Storage) -> Task:
    """Return a task as it was when its study began: as many threads, kept tensors stored alike."""
    return replace(
        task,
        n_threads=facts.environment["threads"],
        keeping=Keeping.from_dict(facts.keeping),
        preparations=storage.beside("prepared"),
    )
