"""Evaluate in this process, one job after the other: the reference every backend must equal."""

from moeash.backends.base import Baseline, Notify, OneAtATime, cannot_build, ignore
from moeash.core.codebook import SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.solutions.recipe import Recipe, Start
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.evaluation.task import Task
from moeash.names import contained
from moeash.networks.parameters import describe as count_parameters


def describe(evaluator: Evaluator) -> Baseline:
    """Return the facts of a loaded task."""
    compressor = evaluator.compressor
    float_pass = evaluator.assessment.float_pass
    counts = count_parameters(compressor.network.state)
    return Baseline(
        metric=evaluator.assessment.baseline,
        reference=evaluator.assessment.reference,
        n_batches=evaluator.assessment.n_batches,
        original_bytes=counts.original_bytes,
        n_shared=counts.shared_weights,
        n_kept=counts.kept_elements,
        network_fingerprint=evaluator.network_fingerprint,
        data_fingerprint=evaluator.data_fingerprint,
        keeping=compressor.groundwork.stored.keeping,
        sample=() if float_pass is None else float_pass.sample,
        remeasured=evaluator.remeasured_baseline,
        space=tuple(compressor.space),
        most_entries=compressor.most_entries,
        notes=evaluator.notes,
        histogram=evaluator.histogram,
        inputs_fingerprint=evaluator.inputs_fingerprint,
    )


class InProcessBackend(OneAtATime):
    """One evaluator in this process."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self._task = task
        self._evaluator: Evaluator | None = None
        self._progress: Progress = silent

    @property
    def evaluator(self) -> Evaluator:
        """The loaded evaluator; :meth:`open` must have been called."""
        assert self._evaluator is not None
        return self._evaluator

    def open(self, notify: Notify = ignore, progress: Progress = silent) -> Baseline:
        """Load the task."""
        self._progress = progress
        self._evaluator = Evaluator(self._task, progress=progress)
        return describe(self._evaluator)

    def evaluate(self, job: Job, archive: Archive) -> Outcome:
        """Evaluate one job."""
        return self.evaluator.evaluate(job, archive, self._progress)

    def build(self, recipe: Recipe, *, start: Start | None = None) -> SharedWeights:
        """Return the shared weights of a recipe.

        Raises:
            EvaluationError: it cannot be built.
        """
        try:
            with contained():
                return self.evaluator.compressor.build(recipe, start=start)
        except Exception as error:
            raise cannot_build(recipe, f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Put the user's module and torch's threads back as they were."""
        if self._evaluator is not None:
            self._evaluator.close()
            self._evaluator = None
