"""What one recipe is worth: build its weights, size its file, measure it, stop when hopeless."""

import itertools
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from moeash.codec.container import encode
from moeash.codec.size import size
from moeash.compression.compressor import Groundwork
from moeash.compression.keeping import Measure
from moeash.compression.preparations import digest_of_plain
from moeash.core.codebook import SharedWeights
from moeash.core.histogram import Histogram
from moeash.core.progress import Progress, silent
from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe
from moeash.data.splits import Split, load_splits
from moeash.errors import EvaluationError, SpecError
from moeash.evaluation.assess import Assessment, FloatPass, FunctionAssessment, SplitAssessment
from moeash.evaluation.caches import check_caches, check_measured
from moeash.evaluation.loading import arithmetic, load_compressor, load_inputs, load_network
from moeash.evaluation.metrics import load_metric
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.evaluation.placing import DevicePlacing, HostPlacing, Placed
from moeash.evaluation.task import Task
from moeash.methods.base import GridMethod
from moeash.names import contained
from moeash.networks.network import Network
from moeash.networks.parameters import network_fingerprint
from moeash.networks.writing.inplace import write_float
from moeash.tracing.watching import in_eval_mode

CIRCUMSTANCES = (MemoryError, torch.OutOfMemoryError, OSError)
"""What an evaluation may raise through no fault of its candidate."""


@dataclass(frozen=True, eq=False)
class Common:
    """What evaluators of one task have in common: one makes it, all may read the same memory.

    Attributes:
        groundwork: of the compressor.
        float_pass: what the float network measured; None when a function measures.
        images: of the search split, hardest first; None when they are streamed or there are none.
        data_fingerprint: of the search split.
    """

    groundwork: Groundwork
    float_pass: FloatPass | None
    images: NDArray[np.float32] | None
    data_fingerprint: str


class Evaluator:
    """A loaded task: the network, its compressor and the search split, ready for jobs.

    While an evaluator lives its module is in eval mode and holds the weights of the last job;
    :meth:`restore` puts the float weights back, :meth:`close` everything it has changed.

    Attributes:
        task: what is evaluated.
        compressor: builds recipes.
        assessment: measures the module's present weights.
        splits: of the study; empty where everything comes from another evaluator.
        network_fingerprint: of the float state and the roles of its parameters.
        remeasured_baseline: metric of the float network with its BatchNorms measured again; None
            where candidates keep their statistics.
    """

    def __init__(
        self,
        task: Task,
        *,
        common: Common | None = None,
        on_device: bool | None = None,
        progress: Progress = silent,
    ) -> None:
        """Load everything once.

        Args:
            task: what to evaluate.
            common: what another evaluator of the same task has made already; arrays may be
                read-only. Nothing of it is made again, and images in it are not read again.
            on_device: let candidates come about where the network is, if the method can; default:
                where that is not the host.
            progress: hears how far loading is.
        """
        self.task = task
        self._common = common
        progress("loading the network", 0, None)
        network = load_network(task)
        on_host = torch.device(task.evaluation.device).type == "cpu"
        self._on_device = not on_host if on_device is None else on_device
        with ExitStack() as held:
            held.enter_context(arithmetic(task))
            held.enter_context(in_eval_mode(network.module))
            try:
                self._prepare(network, progress)
            except BaseException:
                write_float(network.module, network.state)
                raise
            self._held = held.pop_all()

    def _prepare(self, network: Network, progress: Progress) -> None:
        """Measure the float network and prepare what every candidate needs."""
        task, common = self.task, self._common
        self.network_fingerprint = network_fingerprint(network.state)
        self.splits: Mapping[str, Split] = {}
        if task.data is not None and (common is None or common.images is None):
            progress("loading images", 0, None)
            self.splits = load_splits(task.data)
        progress("measuring the float network", 0, None)
        self.assessment = self._assessment(network.module)
        if task.evaluate is not None:
            # A user's function may write to the module, and what is prepared reads it.
            write_float(network.module, network.state)
        self._of_caches: Sequence[str] = ()
        if common is None:
            progress("looking at whether the network follows its weights", 0, None)
            self._of_caches = check_caches(network, self.assessment.runs)
            if task.evaluate is not None and all(run.is_copy for run in self.assessment.runs):
                ignored = check_measured(network, self._measure, self.assessment.baseline)
                self._of_caches = (*self._of_caches, *ignored)
        self.assessment.runs.clear()  # they hold inputs
        groundwork = None if common is None else common.groundwork
        self.compressor = load_compressor(
            task,
            network,
            load_inputs(task, self.splits),
            groundwork=groundwork,
            measure=None if task.evaluate is None else self._function,
            progress=progress,
        )
        self._of_training: Sequence[str] = ()
        if task.trains and common is None:
            progress("looking at what can be trained", 0, None)
            self._of_training = self.compressor.check_training(task.trainings)
        self.remeasured_baseline = self._measure_remeasured() if common is None else None
        self._place()

    def _assessment(self, module: torch.nn.Module) -> Assessment:
        task, common = self.task, self._common
        if task.evaluate is not None:
            return FunctionAssessment(module, task.evaluate)
        images = None if common is None else common.images
        if images is None and "search" not in self.splits:
            raise SpecError(
                "the study has no search split; add [data.splits.search] with a part and a range, "
                "a count or rest = true"
            )
        return SplitAssessment(
            module,
            self.splits.get("search"),
            load_metric(task.evaluation.metric),
            batch_size=task.evaluation.batch_size,
            device=task.evaluation.device,
            precision=task.evaluation.precision,
            float_pass=None if common is None else common.float_pass,
            images=images,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know about the splits and the preparation, one line each."""
        drawn = (split.note for split in self.splits.values())
        of_splits = (note for note in drawn if note is not None)
        return (*of_splits, *self._of_caches, *self.compressor.notes, *self._of_training)

    @property
    def _function(self) -> Measure:
        """The user's function and what it gave for the float network."""
        return Measure(self.assessment.baseline, self._measure)

    def _measure(self) -> float:
        """Return the metric of the module as it is."""
        return self.assessment.measure(lambda bound: False).bound

    def _measure_remeasured(self) -> float | None:
        """Return the metric of the float network with its BatchNorms measured again."""
        remeasuring = self.compressor.remeasuring
        if remeasuring is None:
            return None
        try:
            remeasuring.measure()
            return self._measure()
        finally:
            self.compressor.writer.restore()

    def _place(self) -> None:
        compressor, method = self.compressor, self.task.method
        self._on_host = HostPlacing(compressor)
        self._placing: HostPlacing | DevicePlacing = self._on_host
        # On the device kept tensors stay as the method left them and no file can be made.
        as_binned = self.task.evaluate is None and compressor.remeasuring is None
        as_binned = as_binned and not method.keeps_artifacts
        if self._on_device and as_binned and isinstance(method, GridMethod):
            self._placing = DevicePlacing(method, compressor)

    # ------------------------------------------------------------------ what workers share

    @cached_property
    def data_fingerprint(self) -> str:
        """Fingerprint of the search split; of nothing when a function measures."""
        if "search" in self.splits:
            return self.splits["search"].fingerprint()
        return "function" if self._common is None else self._common.data_fingerprint

    @property
    def inputs_fingerprint(self) -> str | None:
        """Fingerprint of the splits that candidates are made from; None where none are.

        None, too, where another evaluator has prepared: it has read them. Inputs given from Python
        are part of the study's spec.
        """
        if self._common is not None:
            return None
        names = ("calibration", "train") if self.task.trains else ("calibration",)
        found = {name: self.splits[name].fingerprint() for name in names if name in self.splits}
        return digest_of_plain(found) if found else None

    @property
    def histogram(self) -> Histogram | None:
        """How the float weights lie; None where another evaluator has made what this one uses."""
        return None if self._common is not None else self.compressor.histogram()

    def common(self) -> Common:
        """Return what other evaluators of this task need not make or read again."""
        assessment = self.assessment
        return Common(
            self.compressor.groundwork,
            assessment.float_pass,
            assessment.images if isinstance(assessment, SplitAssessment) else None,
            self.data_fingerprint,
        )

    def use_shared(self, common: Common) -> None:
        """Work from now on with a shared copy of :meth:`common`, and let the own one go.

        Raises:
            EvaluationError: it was made from other images.
        """
        if common.data_fingerprint != self.data_fingerprint:
            raise EvaluationError(
                "what another worker shares was made from other images than this one has; do all "
                "nodes see the same data?"
            )
        self._common = common
        if isinstance(self.assessment, SplitAssessment) and common.images is not None:
            self.assessment.use_shared(common.images)
            self.splits = {}
        self.compressor.use_shared(common.groundwork)
        self._place()

    # ------------------------------------------------------------------ evaluating

    def evaluate(self, job: Job, archive: Archive, progress: Progress = silent) -> Outcome:
        """Measure a job, stopping as soon as it is below its floor or certainly dominated.

        Never raises for what the candidate does: a failure is an outcome.

        Args:
            job: what to build and measure.
            archive: what it has to beat.
            progress: hears how far building and measuring are, layer by layer, batch by batch.
        """
        started = time.perf_counter()
        outcome = self._measured(job, archive, progress)
        return replace(
            outcome,
            duration_s=time.perf_counter() - started,
            worker=f"{os.getpid()}@{socket.gethostname()}",
            ended_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def _measured(self, job: Job, archive: Archive, progress: Progress) -> Outcome:
        """Return what became of a job, without who spent the time and how much."""
        sizes: Sizes | None = None
        n_batches = itertools.count()
        try:
            with contained():
                placed = self._placed(job, progress)
                sizes = known = self.sizes(placed.outline)

                def hopeless(bound: float) -> bool:
                    progress("measuring batches", next(n_batches), self.assessment.n_batches)
                    return bound < job.floor or archive.rules_out(bound, known)

                if isinstance(self.assessment, FunctionAssessment):
                    self.assessment.check_places()
                    # A user's function may write to the module, say BatchNorm statistics.
                    self.compressor.writer.restore()
                    self._placing.forget()
                placed.write()
                measured = self.assessment.measure(hopeless)
                complete = measured.metric is not None
                artifact = self._artifact(job.recipe, placed.outline) if complete else None
        except Exception as error:
            return Outcome(
                status="failed",
                metric=None,
                bound=None,
                sizes=sizes,
                fingerprint=None,
                n_batches=0,
                duration_s=0.0,
                error=f"{type(error).__name__}: {error}".splitlines()[0],
                retriable=isinstance(error, CIRCUMSTANCES),
            )
        return Outcome(
            status="complete" if complete else "stopped",
            metric=measured.metric,
            bound=measured.bound,
            noise=measured.noise,
            sizes=sizes,
            fingerprint=placed.fingerprint() if complete else None,
            n_batches=measured.n_batches,
            duration_s=0.0,
            artifact=artifact,
        )

    def _placed(self, job: Job, progress: Progress) -> Placed:
        """Build what a job asks for; what was trained is no longer bins of a grid."""
        if not job.recipe.trained:
            return self._placing.place(job, progress)
        self._placing.forget()
        return self._on_host.place(job, progress)

    def _artifact(self, recipe: Recipe, shared: SharedWeights) -> bytes | None:
        """Return the file of a solution that cannot be rebuilt in seconds."""
        if not recipe.has_artifact(keeps_artifacts=self.task.method.keeps_artifacts):
            return None
        return encode(shared, coder=self.task.codec.coder, notes=self.task.notes)

    def sizes(self, shared: SharedWeights) -> Sizes:
        """Return the exact sizes of shared weights without writing them."""
        report = size(shared, coder=self.task.codec.coder, notes=self.task.notes)
        return Sizes(report.total, report.n_entries, report.bits_per_weight)

    def restore(self) -> None:
        """Put the float weights back into the module, as they were given, wherever they are now."""
        self.compressor.restore()
        self._placing.forget()

    def close(self) -> None:
        """Put back what was changed: the float weights, the module's modes, the arithmetic."""
        self.restore()
        self._held.close()
