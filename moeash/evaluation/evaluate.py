"""What one candidate is worth: build its weights, size its file, measure it, stop when hopeless."""

import time
from collections.abc import Mapping
from typing import Any

import threadpoolctl
import torch

from moeash.codec.size import size
from moeash.core.codebook import SharedWeights
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
)
from moeash.evaluation.keeping import Stored, decide_keeping
from moeash.evaluation.metrics import load_metric
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.evaluation.placing import DevicePlacing, HostPlacing, build
from moeash.evaluation.task import Task, available_cores
from moeash.methods.base import GridMethod, Images, Preparation
from moeash.networks.inplace import WeightWriter
from moeash.networks.network import Network


class Evaluator:
    """A loaded task: the network, the prepared arrays and the search split, ready for jobs.

    While an evaluator lives its module is in eval mode and holds the weights of the last job;
    :meth:`restore` puts the float weights back, :meth:`close` everything it has changed.
    """

    def __init__(
        self,
        task: Task,
        *,
        prepared: Any = None,
        float_pass: FloatPass | None = None,
        stored: Stored | None = None,
        on_device: bool | None = None,
    ) -> None:
        """Load everything once.

        Args:
            task: what to evaluate.
            prepared: the method's prepared arrays when another evaluator of the same task made
                them already; may be read-only.
            float_pass: what that evaluator's float network measured.
            stored: how that evaluator decided to store kept tensors.
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
            self._load(prepared, float_pass, stored, n_threads)
        except BaseException:
            self._hand_back()
            raise

    def _load(
        self,
        prepared: Any,
        float_pass: FloatPass | None,
        stored: Stored | None,
        n_threads: int,
    ) -> None:
        task = self.task
        self._writer = WeightWriter(self.network.module, self.network.state)
        self.splits: Mapping[str, Split] = task.data.load() if task.data is not None else {}
        self.assessment = self._assessment(float_pass)
        self.prepared = prepared
        if prepared is None:
            self.prepared = task.method.prepare(
                Preparation(
                    network=self.network,
                    splits=self._for_method(),
                    seed=task.seed,
                    n_threads=n_threads,
                )
            )
        self.stored = self._decide() if stored is None else stored
        self.adopt(self.prepared)

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
            typical=lambda: task.method.compress(self.prepared, middle(task.method.space())),
            coder=task.coder,
            batch_size=task.batch_size,
            device=task.device,
        )

    def adopt(self, prepared: Any) -> None:
        """Work from now on with an equal copy of the prepared arrays, perhaps a shared one."""
        method = self.task.method
        self.prepared = prepared
        self._placing: HostPlacing | DevicePlacing
        if self._on_device and self.task.evaluate is None and isinstance(method, GridMethod):
            self._placing = DevicePlacing(method, prepared, self.stored.keeping, self.network)
        else:
            self._placing = HostPlacing(method, prepared, self.stored.keeping, self._writer)

    @property
    def float_pass(self) -> FloatPass | None:
        """What the float network measured; None when a function measures."""
        return self.assessment.float_pass

    def _assessment(self, float_pass: FloatPass | None) -> Assessment:
        module = self.network.module
        if self.task.evaluate is not None:
            return FunctionAssessment(module, self.task.evaluate)
        if "search" not in self.splits:
            raise SpecError(
                "the study has no search split; add [data.splits.search] with a part and a range, "
                "a count or rest = true"
            )
        return SplitAssessment(
            module,
            self.splits["search"],
            load_metric(self.task.metric),
            batch_size=self.task.batch_size,
            device=self.task.device,
            precision=self.task.precision,
            float_pass=float_pass,
        )

    def build(self, job: Job) -> SharedWeights:
        """Return the shared weights of a job: compressed, then merged."""
        return build(self.task.method, self.prepared, self.stored.keeping, job)

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
        """Put the float weights back into the module."""
        self._writer.restore()
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
