"""Folding BatchNorms into the layers before them: the same function, before anything is shared.

A BatchNorm in eval mode multiplies every channel by ``a = weight / sqrt(variance + eps)`` and adds
a constant. Where it alone reads a layer, ``a`` belongs as well into the rows of that layer. What is
left of the norm is a shift, or nothing where the layer has a bias to take the shift: weight 1,
mean 0, and the variance at which ``sqrt(variance + eps)`` is exactly 1. The architecture stays, so
decoded tensors fit the unchanged module, and a runtime without BatchNorm can leave the norms out.

That is worth it for such a runtime only. Rows of very different sizes now share one codebook, and
no norm can undo a balancing of rows any more: at equal outputs files of ResNet-20 grew by 21 % with
feedback and by 22 % with nearest entries (``studies/comparison/ablation.py``).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from moeash.core.codebook import Parameter
from moeash.core.kept import unit_variance
from moeash.data.inputs import Batch, call
from moeash.errors import InputError
from moeash.methods.base import Images
from moeash.networks import memory
from moeash.networks.network import Network
from moeash.networks.norms import DTYPES, NORM_TYPES, VECTORS, key, users
from moeash.networks.sameness import SAME_FUNCTION
from moeash.networks.writing.inplace import slot
from moeash.tracing.outputs import compared, furthest
from moeash.tracing.trace import Trace, trace
from moeash.tracing.watching import in_eval_mode

IMAGES = 8
"""Inputs that suffice to see who reads whom and to compare outputs."""

LAYERS = {F.linear: 2, F.conv1d: 3, F.conv2d: 4, F.conv3d: 5}
"""Functions with a row per output channel, and the dimensions at which channels are axis 1."""

Values = dict[str, NDArray[Any]]
"""New values of tensors by ``state_dict`` key."""


@dataclass(frozen=True, eq=False)
class Folding:
    """What became of a network's BatchNorms.

    Attributes:
        network: the same module, now with folded weights, and their state.
        left: why, by module name, BatchNorms were left as they are.
    """

    network: Network
    left: Mapping[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know, one line each."""
        n = len(self.network.folded)
        head = f"{n} BatchNorm{'s are' if n != 1 else ' is'} folded into the layers before them"
        return (head, *(f"{name} is not folded: {reason}" for name, reason in self.left.items()))


def some_images(splits: Mapping[str, Images]) -> Batch:
    """Return :data:`IMAGES` images of the calibration split, else of the search split.

    Raises:
        InputError: there is neither.
    """
    for name in ("calibration", "search"):
        if name in splits:
            order = np.arange(min(IMAGES, len(splits[name])))
            images, _ = next(iter(splits[name].batches(IMAGES, order=order)))
            return images
    raise InputError(
        "folding BatchNorms takes a run of the network on some inputs; pass calibration= "
        "(unlabelled inputs suffice)"
    )


@torch.no_grad()
def fold_norms(network: Network, images: Batch) -> Folding:
    """Fold every BatchNorm that alone reads a layer, and write the result into the module.

    Who reads whom is seen by running the network; that the outputs stay is checked afterwards.
    Where they do not, norms are folded one by one, and those that move the outputs are left.

    Args:
        network: its module holds its float weights.
        images: some inputs ``(n, ...)`` on the module's device; :data:`IMAGES` suffice.
    """
    module, state = network.module, {p.name: p for p in network.state}
    readers = _Readers(trace(module, images), users(module))
    with in_eval_mode(module):
        planned: dict[str, Values] = {}
        left: dict[str, str] = {}
        for name, part in module.named_modules():
            if isinstance(part, _BatchNorm):
                plan = _plan(name, part, readers, state)
                if isinstance(plan, str):
                    left[name] = plan
                else:
                    planned[name] = plan
        left |= _write(network, images, planned, state)
    folded = {name: values for name, values in planned.items() if name not in left}
    changed = {name: array for values in folded.values() for name, array in values.items()}
    after = tuple(replace(p, values=changed.get(p.name, p.values)) for p in network.state)
    return Folding(replace(network, state=after, folded=frozenset(folded)), left)


def _write(
    network: Network,
    images: Batch,
    planned: Mapping[str, Values],
    state: Mapping[str, Parameter],
) -> dict[str, str]:
    """Write folded norms into a module; return why those that move the outputs are left out."""
    module = network.module

    def outputs() -> list[Tensor]:
        return [t.double() for t in compared(call(module, images), network.output)]

    expected = outputs()
    if not expected:
        return dict.fromkeys(planned, "the network returns no tensor that could be compared")
    slots = {name: slot(tensor) for name, tensor in memory.own_tensors(module).items()}

    def put(values: Values) -> None:
        for name, array in values.items():
            slots[name].put(array)

    def restore(values: Values) -> None:
        for name in values:
            before = state[name].values
            assert before is not None
            slots[name].put(before)

    def moved() -> float:
        return furthest(expected, outputs())

    for values in planned.values():
        put(values)
    if moved() <= SAME_FUNCTION:
        return {}
    for values in planned.values():
        restore(values)
    left = {}
    for name, values in planned.items():
        put(values)
        far = moved()
        if far > SAME_FUNCTION:
            restore(values)
            left[name] = (
                f"that moves the outputs by {far:.2g} of the largest, so something that was "
                "not seen reads its layer or its vectors"
            )
    return left


@dataclass(frozen=True)
class _Layer:
    """One call of a layer.

    Attributes:
        weight: its ``state_dict`` key.
        bias: likewise; None without one, empty when it is no tensor of the network.
        output: what it returned.
        channels_first: its rows are axis 1 of the output.
    """

    weight: str
    bias: str | None
    output: int
    channels_first: bool


class _Readers:
    """Which layer's own output each BatchNorm of a run is handed, and who reads what.

    Attributes:
        trace: the run.
        users: modules that own a tensor of the network, by name.
        layers: by their output.
        inputs: what BatchNorms were given, by the key of their running mean.
    """

    def __init__(self, run: Trace, users: Counter[str]) -> None:
        self.trace = run
        self.users = users
        self.layers: dict[int, _Layer] = {}
        self.inputs: dict[str, list[int]] = {}
        for operation in run.operations:
            weight = run.name_of(operation, "weight")
            if operation.function in LAYERS and weight is not None:
                (output,) = operation.makes
                bias = run.name_of(operation, "bias") or ""
                self.layers[output] = _Layer(
                    weight,
                    bias if "bias" in operation.arguments else None,
                    output,
                    len(run.shapes[output]) == LAYERS[operation.function],
                )
            mean = run.name_of(operation, "running_mean")
            if operation.function is F.batch_norm and mean is not None:
                self.inputs.setdefault(mean, []).append(operation.arguments["input"])


def _plan(
    name: str, norm: _BatchNorm, readers: _Readers, state: Mapping[str, Parameter]
) -> Values | str:
    """Return the new values that fold a norm, or why it is not to be folded."""
    if type(norm) not in NORM_TYPES:
        return f"what a {type(norm).__name__} computes is not known"
    if norm.running_mean is None:
        return "it has no running statistics and normalises with each batch's own"
    vectors = {v: key(name, v) for v in VECTORS if getattr(norm, v) is not None}
    if any(state[k].role == "shared" for k in vectors.values()):
        return "its vectors are among the weights to share"
    if any(state[k].role == "tied" or readers.users[k] > 1 for k in vectors.values()):
        return "it has a vector in common with another module"
    if any(state[k].dtype not in DTYPES for k in vectors.values()):
        return "its vectors are too narrow to be computed with"
    inputs = readers.inputs.get(vectors["running_mean"], [])
    if len(inputs) != 1:
        return f"it is called {len(inputs)} times" if inputs else "the run does not call it"
    layer = readers.layers.get(inputs[0])
    if layer is None:
        return "it is not handed the output of a linear layer or a convolution"
    if any(readers.trace.reads_of[k] != 1 for k in vectors.values()):
        return "something else reads its vectors"
    if readers.trace.reads[layer.output] != 1:
        return f"something else reads the output of {layer.weight!r}"
    own = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    for k in own:
        if not k or readers.users[k] != 1 or readers.trace.reads_of[k] != 1:
            return f"{k!r} is used elsewhere too" if k else f"the bias with {own[0]!r} is computed"
        if state[k].dtype not in DTYPES:
            return f"{k!r} is too narrow to be multiplied with another factor"
    if not layer.channels_first or state[layer.weight].shape[0] != norm.num_features:
        return f"its channels are not the rows of {layer.weight!r}"
    return _values(vectors, layer, float(norm.eps), state)


def _values(
    vectors: Mapping[str, str], layer: _Layer, eps: float, state: Mapping[str, Parameter]
) -> Values | str:
    """Return the values a norm and its layer have when one is folded into the other."""

    def of(name: str) -> NDArray[np.float64]:
        return np.asarray(state[name].values, dtype=np.float64)

    mean, total = of(vectors["running_mean"]), of(vectors["running_var"]) + eps
    variance = unit_variance(eps, _dtype(state[vectors["running_var"]]))
    if variance is None:
        return f"with an eps of {eps:g} there is no variance at which it does nothing"
    if not (total > 0).all():
        return "its variance and eps have no square root"
    affine = "weight" in vectors
    scale = (of(vectors["weight"]) if affine else 1.0) / np.sqrt(total)
    shift = (of(vectors["bias"]) if affine else 0.0) - mean * scale
    weight = of(layer.weight)
    new = {layer.weight: weight * scale.reshape(-1, *[1] * (weight.ndim - 1))}
    if layer.bias is not None:
        new[layer.bias] = of(layer.bias) * scale + shift
        shift = np.zeros_like(mean)
    new[vectors["running_var"]] = np.full(mean.shape, variance)
    new[vectors["running_mean"]] = np.zeros_like(mean) if affine else -shift
    if affine:
        new |= {vectors["weight"]: np.ones_like(mean), vectors["bias"]: shift}
    with np.errstate(over="ignore"):
        values = {k: array.astype(_dtype(state[k])) for k, array in new.items()}
    if not all(np.isfinite(array).all() for array in values.values()):
        return "its layer would not be finite"
    for array in values.values():
        array.flags.writeable = False
    return values


def _dtype(parameter: Parameter) -> "np.dtype[Any]":
    assert parameter.values is not None
    return parameter.values.dtype
