"""Load what a task names: the network, its inputs, its compressor, with the task's arithmetic."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import threadpoolctl
import torch

from moeash.compression.compressor import Circumstances, Compressor, Groundwork
from moeash.compression.keeping import Measure
from moeash.compression.preparations import Preparations
from moeash.core.progress import Progress, silent
from moeash.data.splits import Split, load_splits
from moeash.errors import InputError
from moeash.evaluation.options import Precision
from moeash.evaluation.task import Task, available_cores
from moeash.methods.base import Images
from moeash.networks.network import Network
from moeash.networks.sources import read_network
from moeash.tracing.watching import in_eval_mode


class Arithmetic:
    """Threads and precision of a task, for as long as nobody restores those from before.

    Methods multiply in NumPy and torch, whose sums depend on the number of threads; so numbers are
    those of a task only between its making and :meth:`restore`.
    """

    def __init__(self, task: Task) -> None:
        self._torch_threads = torch.get_num_threads()
        self._blas: Any = None
        if task.n_threads is not None:
            self._blas = threadpoolctl.threadpool_limits(task.n_threads, "blas")
            torch.set_num_threads(task.n_threads)
        set_precision(task.evaluation.precision)

    def restore(self) -> None:
        """Put threads back as they were."""
        if self._blas is not None:
            self._blas.restore_original_limits()
        torch.set_num_threads(self._torch_threads)


def set_precision(precision: Precision) -> None:
    """Set the arithmetic of matrix products and convolutions on GPUs."""
    # cuDNN rounds convolutions to TF32 unless told not to; an objective must not depend on that.
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def load_network(task: Task) -> Network:
    """Return a task's network, holding its float weights, on its device.

    Raises:
        InputError: there is no such device here.
    """
    refuse_missing(task.evaluation.device)
    network = replace(read_network(task.network, task.module), output=task.output)
    network.module.to(task.evaluation.device)
    return network


def refuse_missing(device: str) -> None:
    """Refuse a device that is not here, before anything is loaded for it.

    Raises:
        InputError: torch cannot use it; says why.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"evaluation.device is {device!r}, which torch cannot use here: {reason}; choose cpu, "
            "or see what `moeash doctor` says of the device"
        ) from error


def load_inputs(task: Task, splits: Mapping[str, Split]) -> Mapping[str, Images]:
    """Return what a method may look at: the study's splits, and inputs given from Python."""
    given = task.calibration
    return splits if given is None else {**splits, "calibration": given}


def load_compressor(
    task: Task,
    network: Network,
    inputs: Mapping[str, Images],
    *,
    groundwork: Groundwork | None = None,
    measure: Measure | None = None,
    progress: Progress = silent,
) -> Compressor:
    """Return a task's compressor.

    Args:
        task: what it is of.
        network: the task's, holding its float weights.
        inputs: from :func:`load_inputs`. Only where the task does not know yet how kept tensors
            are stored does the search split have to be among them.
        groundwork: what another compressor of the task has made.
        measure: a user's function, where one measures.
        progress: hears how far preparing is.
    """
    search = inputs.get("search") if task.keeping is None else None
    folder = task.preparations
    precision = task.evaluation.precision
    set_precision("float32")  # outputs are compared closely
    try:
        return Compressor(
            network,
            task.method,
            Circumstances(
                codec=task.codec,
                seed=task.seed,
                n_threads=task.n_threads or available_cores(),
                device=task.evaluation.device,
                batch_size=task.evaluation.batch_size,
                refines=task.refines,
            ),
            inputs,
            search=search if isinstance(search, Split) else None,
            keeping=task.keeping,
            groundwork=groundwork,
            measure=measure,
            preparations=None if folder is None else Preparations(Path(folder)),
            progress=progress,
        )
    finally:
        set_precision(precision)


@contextmanager
def compressor_of(task: Task, progress: Progress = silent) -> Iterator[Compressor]:
    """Hold the compressor of a task, for whoever builds its solutions without evaluating any.

    The search split is not looked at: the task must know how kept tensors are stored. Afterwards
    the module is as it was.
    """
    if task.keeping is None and task.data is not None:
        raise AssertionError("deciding on the search split is the study's, not a reader's")
    arithmetic = Arithmetic(task)
    try:
        progress("loading the network", 0, None)
        network = load_network(task)
        with in_eval_mode(network.module):
            splits = {} if task.data is None else load_splits(task.data)
            inputs = load_inputs(task, splits)
            compressor = load_compressor(task, network, inputs, progress=progress)
            try:
                yield compressor
            finally:
                compressor.restore()
    finally:
        arithmetic.restore()
