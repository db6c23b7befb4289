"""Load what a task names: the network, its inputs, its compressor, with the task's arithmetic."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import threadpoolctl
import torch

from moeash.compression.compressor import Circumstances, Compressor, Groundwork
from moeash.compression.keeping import Measure
from moeash.core.progress import Progress, silent
from moeash.data.splits import Split, load_splits
from moeash.errors import InputError
from moeash.evaluation.caches import check_caches, run_on
from moeash.evaluation.task import Task
from moeash.methods.base import Images
from moeash.networks.devices import obstacle, wake
from moeash.networks.loading.sources import read_network
from moeash.networks.network import Network
from moeash.runtime.heap import freed_memory_kept
from moeash.runtime.threads import default_threads
from moeash.tracing.derived import FOLLOWED_INPUTS
from moeash.tracing.watching import in_eval_mode


@contextmanager
def arithmetic(task: Task) -> Iterator[None]:
    """Hold the threads and the precision of a task, and the memory its passes take.

    Methods multiply in NumPy and torch, whose sums depend on the number of threads; so numbers are
    those of a task only within.
    """
    torch_threads = torch.get_num_threads()
    # threadpoolctl and torch leave everything as it is where the task names no number.
    with threadpoolctl.threadpool_limits(task.n_threads, "blas"), freed_memory_kept():
        torch.set_num_threads(task.n_threads or torch_threads)
        try:
            with _tf32(task.evaluation.precision == "tf32"):
                yield
        finally:
            torch.set_num_threads(torch_threads)


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Let GPUs round the factors of matrix products and convolutions to TF32, or forbid it."""
    # cuDNN rounds convolutions to TF32 unless told not to; an objective must not depend on that.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def load_network(task: Task) -> Network:
    """Return a task's network, holding its float weights, on its device.

    Raises:
        InputError: there is no such device here.
    """
    refuse_missing(task.evaluation.device)
    network = replace(read_network(task.network, task.module), output=task.output)
    network.module.to(task.evaluation.device)
    wake(task.evaluation.device)
    return network


def refuse_missing(device: str) -> None:
    """Refuse a device that is not here, before anything is loaded for it.

    Raises:
        InputError: torch cannot use it; says why.
    """
    error = obstacle(device)
    if error is not None:
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
        inputs: from :func:`load_inputs`. The search split has to be among them where the task
            does not know yet how kept tensors are stored.
        groundwork: what another compressor of the task has made.
        measure: a user's function, where one measures.
        progress: hears how far preparing is.
    """
    search = inputs.get("search") if task.keeping is None else None
    folder = task.preparations
    with _tf32(False):  # outputs are compared closely
        return Compressor(
            network,
            task.method,
            Circumstances(
                codec=task.codec,
                seed=task.seed,
                n_threads=task.n_threads or default_threads(),
                device=task.evaluation.device,
                batch_size=task.evaluation.batch_size,
                refines=task.refines,
                folder=None if folder is None else Path(folder),
                training=task.training,
            ),
            inputs,
            search=search if isinstance(search, Split) else None,
            keeping=task.keeping,
            groundwork=groundwork,
            measure=measure,
            train_on=partial(_train_on, task, inputs),
            progress=progress,
        )


def _train_on(task: Task, inputs: Mapping[str, Images]) -> Mapping[str, Images]:
    """Return what trainings may look at; a worker that reads nothing itself opens it only now."""
    if inputs or task.data is None:
        return inputs
    return load_inputs(task, load_splits(task.data))


@contextmanager
def compressor_of(task: Task, progress: Progress = silent) -> Iterator[Compressor]:
    """Hold the compressor of a task, for whoever builds its solutions without evaluating any.

    Nothing is decided on the search split: the task must know how kept tensors are stored. A few of
    its images are read where BatchNorms are folded and there is no calibration split. Afterwards
    the module is as it was.
    """
    if task.keeping is None and task.data is not None:
        raise AssertionError("deciding on the search split is the study's, not a reader's")
    progress("loading the network", 0, None)
    network = load_network(task)
    with arithmetic(task), in_eval_mode(network.module):
        splits = {} if task.data is None else load_splits(task.data)
        inputs = load_inputs(task, splits)
        notes: tuple[str, ...] = ()
        if task.keeping is None and task.calibration is not None:
            few, _ = next(iter(task.calibration.batches(FOLLOWED_INPUTS)))
            runs = run_on(network, few.to(task.evaluation.device))
            notes = check_caches(network, runs)
        compressor = load_compressor(task, network, inputs, progress=progress)
        if notes:
            work, stored = compressor.groundwork, compressor.groundwork.stored
            stored = replace(stored, notes=(*notes, *stored.notes))
            compressor.groundwork = replace(work, stored=stored)
        try:
            yield compressor
        finally:
            compressor.restore()
