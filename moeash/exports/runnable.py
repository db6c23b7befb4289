"""Networks that run with decoded weights, for formats that hold the computation too."""

import copy
import sys
from collections.abc import Iterator

from torch import nn

from moeash.core.codebook import SharedWeights
from moeash.data.inputs import Batch
from moeash.data.splits import Split, load_splits
from moeash.data.unlabelled import Given, Unlabelled
from moeash.errors import InputError
from moeash.evaluation.loading import load_inputs
from moeash.evaluation.task import Task
from moeash.exports.formats.base import Runnable
from moeash.networks.loading.checkpoints import names_in
from moeash.networks.loading.fitting import Own
from moeash.networks.loading.sources import read_network
from moeash.networks.writing.inplace import load_into

BATCH_SIZE = 100
"""Inputs a forward pass, where no study says it."""

IMAGES = 256
"""Images of a study that suffice to see that a network computes the same."""

SPLITS = ("holdout", "search", "calibration")
"""Splits that a study's network may be run on: the first that the study has."""


def runnable(
    module: nn.Module,
    weights: SharedWeights,
    inputs: Split | Unlabelled,
    *,
    batch_size: int = BATCH_SIZE,
    is_ours: bool = False,
) -> Runnable:
    """Return a network with the decoded weights.

    Args:
        module: the network, wrapped by torch.compile or DataParallel or not.
        weights: of it.
        inputs: to run it on.
        batch_size: inputs a forward pass.
        is_ours: the network was made for this and is written to; anybody else's is copied, and
            stays as it is.

    Raises:
        CheckpointError: the weights are not of this network; lists what is missing, left over or of
            another shape.
        InputError: the network cannot be copied.
    """
    module = _inside(module)
    arrays = weights.decoded()
    names = names_in(Own.of(module), arrays)
    module = (module if is_ours else _copied(module)).cpu().eval()
    load_into(module, {names[name]: array for name, array in arrays.items()})

    def batches() -> Iterator[Batch]:
        for batch, _ in inputs.batches(batch_size):
            yield batch

    return Runnable(module, names, batches)


def _copied(module: nn.Module) -> nn.Module:
    """Return a copy of a network.

    Raises:
        InputError: it cannot be copied; says what to do.
    """
    try:
        return copy.deepcopy(module)
    except Exception as exc:  # whatever the network's own code raises
        raise InputError(
            f"{type(module).__name__} cannot be copied ({type(exc).__name__}: {exc}), and the one "
            "given should keep its weights; take what cannot be copied out of the network, such as "
            "a lock, a generator or an open file, or give its class a __deepcopy__, or name a "
            "function that makes the network in a spec (network.source): then it is made anew"
        ) from exc


def runnable_of_task(task: Task, weights: SharedWeights, given: Given | None = None) -> Runnable:
    """Return the network of a task with decoded weights.

    Args:
        task: it runs on images of its holdout split, or else on those the search looks at.
        weights: of its network.
        given: inputs to run it on instead.

    Raises:
        InputError: there are no inputs.
    """
    network = read_network(task.network, task.module)
    size = task.evaluation.batch_size
    inputs: Split | Unlabelled
    if given is not None:
        inputs = Unlabelled(given, at_most=sys.maxsize, network=network.module)
    else:
        inputs = _inputs_of(task)
    is_ours = task.module is None
    return runnable(network.module, weights, inputs, batch_size=size, is_ours=is_ours)


def images_of(task: Task, *, at_most: int = IMAGES) -> Iterator[Batch]:
    """Yield batches of a task's images, the first ones.

    Raises:
        InputError: there are none.
    """
    for batch, _ in _inputs_of(task).batches(task.evaluation.batch_size):
        yield batch[:at_most]
        at_most -= len(batch)
        if at_most <= 0:
            return


def _inputs_of(task: Task) -> Split | Unlabelled:
    splits = load_inputs(task, {} if task.data is None else load_splits(task.data))
    for name in SPLITS:
        found = splits.get(name)
        if isinstance(found, Split | Unlabelled):
            return found
    raise InputError(
        "the network has to be run, and its study has no inputs; give some with inputs="
    )


def _inside(module: nn.Module) -> nn.Module:
    """Return the network in wrappers that only hand on what they are given."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner
