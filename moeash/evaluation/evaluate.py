"""What one candidate is worth: build its weights, size its file, measure it, stop when hopeless."""

import dataclasses
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import threadpoolctl
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.codec.size import size
from moeash.compression.folding import Folding, fold_norms, some_images
from moeash.compression.keeping import Stored, decide_keeping
from moeash.compression.remeasuring import Remeasuring, calibration_images
from moeash.core.codebook import SharedWeights, State
from moeash.core.objectives import Sizes
from moeash.core.variables import middle
from moeash.data.splits import Split
from moeash.errors import SpecError
from moeash.evaluation.assess import (
    Assessment,
    FloatPass,
    FunctionAssessment,
    Precision,
    SplitAssessment,
    read_only_tensor,
)
from moeash.evaluation.metrics import load_metric
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.evaluation.placing import Builder, DevicePlacing, HostPlacing
from moeash.evaluation.task import Task, available_cores
from moeash.methods.base import GridMethod, Images, Preparation
from moeash.networks.inplace import WeightWriter
from moeash.networks.network import Network
from moeash.networks.parameters import network_fingerprint

CIRCUMSTANCES = (MemoryError, torch.OutOfMemoryError, OSError)
"""What an evaluation may raise through no fault of its candidate."""


@dataclasses.dataclass(frozen=True, eq=False)
class Common:
    """What evaluators of one task have in common: one makes it, all may read the same memory.

    Attributes:
        state: the float state.
        prepared: the method's arrays.
        stored: how kept tensors are stored.
        float_pass: what the float network measured; None when a function measures.
        images: of the search split, hardest first; None when they are streamed or there are none.
        data_fingerprint: of the search split.
        calibration: images on which BatchNorms are measured again; None when they are not.
    """

    state: State
    prepared: Any
    stored: Stored
    float_pass: FloatPass | None
    images: NDArray[np.float32] | None
    data_fingerprint: str
    calibration: NDArray[Any] | None = None


class Evaluator:
    """A loaded task: the network, the prepared arrays and the search split, ready for jobs.

    While an evaluator lives its module is in eval mode and holds the weights of the last job;
    :meth:`restore` puts the float weights back, :meth:`close` everything it has changed.
    """

    def __init__(
        self,
        task: Task,
        *,
        common: Common | None = None,
        on_device: bool | None = None,
    ) -> None:
        """Load everything once.

        Args:
            task: what to evaluate.
            common: what another evaluator of the same task has made already; arrays may be
                read-only. Nothing of it is made again, and images in it are not read again.
            on_device: let candidates come about where the network is, if the method can; default:
                where that is not the host.
        """
        n_threads = task.n_threads or available_cores()
        self.task = task
        self.network: Network = task.network.load()
        module = self.network.module
        module.to(task.device)
        self._training = {part: part.training for part in module.modules()}
        self._torch_threads = torch.get_num_threads()
        self._blas_threads: Any = None
        self._given: WeightWriter | None = None  # of the weights before BatchNorms were folded
        self.folding: Folding | None = None
        self.remeasuring: Remeasuring | None = None
        self.remeasured_baseline: float | None = None
        self._on_device = (
            torch.device(task.device).type != "cpu" if on_device is None else on_device
        )
        try:
            module.eval()
            if task.n_threads is not None:
                # Methods multiply in NumPy, whose sums depend on BLAS's threads as well.
                self._blas_threads = threadpoolctl.threadpool_limits(task.n_threads, "blas")
                torch.set_num_threads(task.n_threads)
            _set_precision(task.precision)
            self._load(common, n_threads)
        except BaseException:
            if self._given is not None:
                self._given.restore()
            self._hand_back()
            raise

    def _load(self, common: Common | None, n_threads: int) -> None:
        task = self.task
        self.network_fingerprint = network_fingerprint(self.network.state)
        self._writer = WeightWriter(self.network.module, self.network.state)
        self._common = common
        self.splits: Mapping[str, Split] = {}
        if task.data is not None and (common is None or common.images is None):
            self.splits = task.data.load()
        self.assessment = self._assessment()
        if common is not None:
            self._adopt(common)
            return
        self.folding = self._fold() if task.fold_norms else None
        if task.remeasure_norms:
            images = calibration_images(self._for_method(), task.remeasure_norms, task.seed)
            self._remeasure_on(images)
            self.remeasured_baseline = self._measure_remeasured()
        self.prepared = task.method.prepare(
            Preparation(
                network=self.network,
                splits=self._for_method(),
                seed=task.seed,
                n_threads=n_threads,
            )
        )
        self.stored = self._decide()
        self._place()

    def _remeasure_on(self, images: Tensor) -> None:
        self.remeasuring = Remeasuring(self.network, images, self.task.device)

    def _measure_remeasured(self) -> float:
        """Return the metric of the float network with its BatchNorms measured again."""
        assert self.remeasuring is not None
        try:
            self.remeasuring.measure()
            return self.assessment.measure(lambda bound: False).bound
        finally:
            self._writer.restore()

    def _adjust(self, shared: SharedWeights) -> SharedWeights:
        """Measure a candidate's BatchNorms again, where the study says so."""
        if self.remeasuring is None:
            return shared
        return self.remeasuring.apply(self._writer, shared)

    def _fold(self) -> Folding:
        """Fold BatchNorms; the network as it was given has been measured already."""
        task = self.task
        images = some_images(self._for_method()).to(task.device)
        self._given = self._writer
        _set_precision("float32")  # outputs are compared closely
        folding = fold_norms(self.network, images)
        _set_precision(task.precision)
        self.network = folding.network
        self._writer = WeightWriter(self.network.module, self.network.state)
        return folding

    def _for_method(self) -> Mapping[str, Images]:
        given = self.task.calibration
        return self.splits if given is None else {**self.splits, "calibration": given}

    def _decide(self) -> Stored:
        task = self.task
        if task.keeping is not None:
            return Stored(task.keeping)
        return decide_keeping(
            self.network,
            self._writer,
            self.splits.get("search"),
            kept=task.kept,
            norms=task.norms,
            typical=self._typical,
            coder=task.coder,
            batch_size=task.batch_size,
            device=task.device,
        )

    def _typical(self) -> SharedWeights:
        method = self.task.method
        return self._adjust(
            method.compress(self.prepared, middle(method.space()), network=self.network)
        )

    @cached_property
    def data_fingerprint(self) -> str:
        """Of the search split; of nothing when a function measures."""
        if "search" in self.splits:
            return self.splits["search"].fingerprint()
        return "function" if self._common is None else self._common.data_fingerprint

    def common(self) -> Common:
        """Return what other evaluators of this task need not make or read again."""
        assessment = self.assessment
        return Common(
            self.network.state,
            self.prepared,
            self.stored,
            assessment.float_pass,
            assessment.images if isinstance(assessment, SplitAssessment) else None,
            self.data_fingerprint,
            None if self.remeasuring is None else self.remeasuring.images.numpy(),
        )

    def adopt(self, common: Common) -> None:
        """Work from now on with a shared copy of :meth:`common`, and let the own one go."""
        self._common = common
        if isinstance(self.assessment, SplitAssessment) and common.images is not None:
            self.assessment.adopt(common.images)
            self.splits = {}
        self._adopt(common)

    def _adopt(self, common: Common) -> None:
        self.network = dataclasses.replace(self.network, state=common.state)
        self._writer = WeightWriter(self.network.module, common.state)
        self.prepared, self.stored = common.prepared, common.stored
        if common.calibration is not None:
            self._remeasure_on(read_only_tensor(common.calibration))
        self._place()

    def _place(self) -> None:
        method, prepared = self.task.method, self.prepared
        self._builder = Builder(method, prepared, self.stored.keeping, self.network, self._adjust)
        self._placing: HostPlacing | DevicePlacing
        as_binned = self.task.evaluate is None and self.remeasuring is None
        if self._on_device and as_binned and isinstance(method, GridMethod):
            self._placing = DevicePlacing(method, prepared, self.stored.keeping, self.network)
        else:
            self._placing = HostPlacing(self._builder, self._writer)

    def _assessment(self) -> Assessment:
        module, common = self.network.module, self._common
        if self.task.evaluate is not None:
            return FunctionAssessment(module, self.task.evaluate)
        images = None if common is None else common.images
        if images is None and "search" not in self.splits:
            raise SpecError(
                "the study has no search split; add [data.splits.search] with a part and a range, "
                "a count or rest = true"
            )
        return SplitAssessment(
            module,
            self.splits.get("search"),
            load_metric(self.task.metric),
            batch_size=self.task.batch_size,
            device=self.task.device,
            precision=self.task.precision,
            float_pass=None if common is None else common.float_pass,
            images=images,
        )

    def build(self, job: Job) -> SharedWeights:
        """Return the shared weights of a job.

        Where BatchNorms are measured again the network holds them afterwards.
        """
        return self._builder.build(job)

    def evaluate(self, job: Job, archive: Archive) -> Outcome:
        """Measure a job, stopping as soon as it is below its floor or certainly dominated.

        Never raises for what the candidate does: a failure is an outcome.
        """
        started = time.perf_counter()
        sizes: Sizes | None = None
        try:
            placed = self._placing.place(job)
            sizes = self.sizes(placed.outline)
            known = sizes

            def hopeless(bound: float) -> bool:
                return bound < job.floor or archive.rules_out(bound, known)

            if self.task.evaluate is not None:
                # A user's function may write to the module, say BatchNorm statistics: start clean.
                self._writer.restore()
                self._placing.forget()
            placed.write()
            measured = self.assessment.measure(hopeless)
        except Exception as error:
            return Outcome(
                status="failed",
                metric=None,
                bound=None,
                sizes=sizes,
                fingerprint=None,
                n_batches=0,
                duration_s=time.perf_counter() - started,
                error=f"{type(error).__name__}: {error}".splitlines()[0],
                retriable=isinstance(error, CIRCUMSTANCES),
            )
        return Outcome(
            status="stopped" if measured.metric is None else "complete",
            metric=measured.metric,
            bound=measured.bound,
            sizes=sizes,
            fingerprint=None if measured.metric is None else placed.fingerprint(),
            n_batches=measured.n_batches,
            duration_s=time.perf_counter() - started,
        )

    def sizes(self, shared: SharedWeights) -> Sizes:
        """Return the exact sizes of shared weights without writing them."""
        report = size(shared, coder=self.task.coder, notes=self.task.notes)
        return Sizes(report.total, shared.n_entries, report.bits_per_weight)

    def restore(self) -> None:
        """Put the float weights back into the module, as they were given."""
        self._writer.restore()
        if self._given is not None:
            self._given.restore()
        self._placing.forget()

    def close(self) -> None:
        """Put back what was changed: the float weights, the module's modes, threads."""
        self.restore()
        self._hand_back()

    def _hand_back(self) -> None:
        for part, training in self._training.items():
            part.training = training
        if self._blas_threads is not None:
            self._blas_threads.restore_original_limits()
        torch.set_num_threads(self._torch_threads)


def _set_precision(precision: Precision) -> None:
    # cuDNN rounds convolutions to TF32 unless told not to; an objective must not depend on that.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
