"""Every use a network makes of its weights, seen at the functions of torch that apply them.

What counts is that a row range of a parameter was multiplied with something, not which module it
belongs to: two modules may share one weight. Attention is seen as its four projections.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moeash.data.inputs import Batch
from moeash.data.inputs import call as call_network
from moeash.tracing.patches import LinearMap
from moeash.tracing.watching import Call, Watcher

LINEAR = ("input", "weight", "bias")
CONV = (*LINEAR, "stride", "padding", "dilation", "groups")
TRANSPOSED = (*LINEAR, "stride", "padding", "output_padding", "groups", "dilation")
EMBEDDING = ("input", "weight", "padding_idx", "max_norm")

FUNCTIONS: dict[Callable[..., Any], tuple[int, tuple[str, ...]]] = {
    F.linear: (0, LINEAR),
    F.conv1d: (1, CONV),
    F.conv2d: (2, CONV),
    F.conv3d: (3, CONV),
    F.conv_transpose1d: (1, TRANSPOSED),
    F.conv_transpose2d: (2, TRANSPOSED),
    F.conv_transpose3d: (3, TRANSPOSED),
    F.embedding: (0, EMBEDDING),
}
"""What applies a weight: its number of spatial dimensions and its arguments by position."""

LAYERS: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, nn.Embedding),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


@dataclass(frozen=True, eq=False)
class Use:
    """One application of a weight, or of a range of its rows.

    Attributes:
        name: ``state_dict`` key of the weight.
        first_row: where in the weight the range begins.
        map: what was applied.
        bias: ``state_dict`` key of the bias when its rows go with those of the weight, empty when
            they do not or it is no parameter; None when there is none.
    """

    name: str
    first_row: int
    map: LinearMap
    bias: str | None

    @property
    def rows(self) -> range:
        """The rows of the weight it applies."""
        return range(self.first_row, self.first_row + self.map.weight.shape[0])


OnUse = Callable[[Use, Tensor, Tensor], None]
"""(use, inputs, outputs), both as the function had them, images first."""


def watch_uses(network: nn.Module, on_use: OnUse) -> Watcher:
    """Return what shows every use of a network's weights while it runs.

    Args:
        network: whose parameters are looked for. Weights computed from parameters (weight
            normalisation, say) are not parameters and not shown.
        on_use: called after each use.
    """
    uses = Uses(network)

    def after(call: Call) -> None:
        use = uses.of(call)
        if use is not None:
            on_use(use, input_of(call), call.result)

    return Watcher(after=after)


def input_of(call: Call) -> Tensor:
    """Return the inputs of a call that applies a weight, as it was given them."""
    given: Tensor = call.arguments(FUNCTIONS[call.function][1])["input"]
    return given


def inputs_of(network: nn.Module, name: str, n_uses: int, batch: Batch) -> list[tuple[Use, Tensor]]:
    """Run a network until all uses of a weight have been met; return them with their inputs.

    Args:
        network: in the mode it is to run in.
        name: ``state_dict`` key of the weight.
        n_uses: how often it is used in a run; what follows the last use is not computed.
        batch: on the network's device.
    """
    met: list[tuple[Use, Tensor]] = []

    def meet(use: Use, inputs: Tensor, outputs: Tensor) -> None:
        if use.name != name:
            return
        last = len(met) == n_uses - 1
        met.append((use, inputs if last else inputs.clone()))  # what follows may change it in place
        if last:
            watcher.end()

    watcher = watch_uses(network, meet)
    with watcher:
        call_network(network, batch)
    return met


def looked_up(network: nn.Module, batch: Batch) -> frozenset[str]:
    """Return the weights that a network looks rows up in, and uses in no other way.

    Args:
        network: in the mode it is to run in.
        batch: on the network's device.

    Returns:
        Their ``state_dict`` keys.
    """
    ways: dict[str, set[bool]] = {}

    def meet(use: Use, inputs: Tensor, outputs: Tensor) -> None:
        ways.setdefault(use.name, set()).add(use.map.lookup)

    with watch_uses(network, meet), torch.no_grad():
        call_network(network, batch)
    return frozenset(name for name, lookups in ways.items() if lookups == {True})


class Uses:
    """Finds the calls that apply a weight of a network.

    Args:
        network: whose parameters are looked for.
    """

    def __init__(self, network: nn.Module) -> None:
        self._names: dict[int, str] = {}
        self._by_storage: dict[int, list[tuple[str, Tensor]]] = {}
        for name, parameter in network.named_parameters():
            self._names[id(parameter)] = name
            place = parameter.untyped_storage().data_ptr()
            self._by_storage.setdefault(place, []).append((name, parameter))

    def of(self, call: Call) -> Use | None:
        """Return which weight a call applies, and how; None when it applies none."""
        if call.function not in FUNCTIONS:
            return None
        n_dims, names = FUNCTIONS[call.function]
        given = call.arguments(names)
        weight, bias = given["weight"], given.get("bias")
        place = self._place(weight)
        if place is None or given.get("max_norm") is not None:  # max_norm rewrites the weight
            return None
        name, first_row = place
        where = None if bias is None else self._place(bias)
        options = ("groups", "stride", "padding", "dilation")
        map_ = LinearMap.of(
            weight,
            n_dims,
            **{key: given[key] for key in options if key in given},
            transposed=names is TRANSPOSED,
            lookup=names is EMBEDDING,
        )
        key = None if bias is None else ""
        # A bias goes with the rows of its weight only where the rows are outputs.
        if where is not None and where[1] == first_row and not map_.rows_are_inputs:
            key = where[0]
        return Use(name, first_row, map_, key)

    def _place(self, tensor: Tensor) -> tuple[str, int] | None:
        """Return the parameter a tensor is, or is a range of rows of, and its first row."""
        if id(tensor) in self._names:
            return self._names[id(tensor)], 0
        for name, whole in self._by_storage.get(tensor.untyped_storage().data_ptr(), ()):
            same = tensor.shape[1:] == whole.shape[1:] and tensor.stride() == whole.stride()
            if not same or not whole.numel():
                continue
            offset = int(tensor.storage_offset()) - int(whole.storage_offset())
            first, inside = divmod(offset, int(whole.stride(0)))
            if not inside and first >= 0 and first + len(tensor) <= len(whole):
                return name, first
        return None


def tiles(ranges: Sequence[range], n_rows: int) -> str | None:
    """Say why ranges of rows are not all rows of a weight, each once; None when they are.

    Args:
        ranges: by first row.
        n_rows: of the weight.
    """
    if ranges[0].start > 0 or ranges[-1].stop < n_rows:
        return "the calibration run uses only some of its rows"
    if any(one.stop != other.start for one, other in pairwise(ranges)):
        return "the calibration run uses overlapping parts of it, or not all"
    if len({len(rows) for rows in ranges}) > 1:
        return "it is used in parts of different sizes"
    return None


def why_unused(network: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """Say of parameters without any use why that may be."""
    owners = {
        f"{prefix}.{local}" if prefix else local: module
        for prefix, module in network.named_modules()
        for local, _ in module.named_parameters(recurse=False)
    }
    reasons = {}
    for name in names:
        module = owners[name]
        projection = name.endswith(("weight", "weight_orig")) and isinstance(module, LAYERS)
        reasons[name] = (
            "its layer was not called by the calibration run"
            if projection
            else f"{type(module).__name__} does not multiply with it as a layer does"
        )
    return reasons
