"""Every use a network makes of its weights, seen at the functions of torch that apply them.

Not at modules: attention hands its weights to one function and never calls its output projection,
Swin blocks call ``F.linear`` with the weights of a module they never call, two modules may share
one weight. What counts is that a row range of a parameter was multiplied with something.

Attention is taken apart into its four projections, so that each is seen; its outputs are the same
but for the rounding of one matrix product that becomes three.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from moeash.tracing.patches import LinearMap

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

ATTENTION = inspect.signature(F.multi_head_attention_forward)

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


class Watched(TorchFunctionMode):
    """While active, every use of a network's weights is told.

    Args:
        network: whose parameters are looked for. Weights computed from parameters (weight
            normalisation, say) are not parameters and not told.
        on_use: called after each use.
    """

    def __init__(self, network: nn.Module, on_use: OnUse) -> None:
        super().__init__()
        self._on_use = on_use
        self._names: dict[int, str] = {}
        self._by_storage: dict[int, list[tuple[str, Tensor]]] = {}
        for name, parameter in network.named_parameters():
            self._names[id(parameter)] = name
            place = parameter.untyped_storage().data_ptr()
            self._by_storage.setdefault(place, []).append((name, parameter))

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function and tell what it did to a parameter."""
        given = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attend(ATTENTION.bind(*args, **given))
        result = func(*args, **given)
        if func in FUNCTIONS:
            n_dims, names = FUNCTIONS[func]
            self._tell(n_dims, names, dict(zip(names, args, strict=False)) | dict(given), result)
        return result

    def _tell(
        self, n_dims: int, names: tuple[str, ...], given: Mapping[str, Any], result: Tensor
    ) -> None:
        weight, bias = given["weight"], given.get("bias")
        place = self._place(weight)
        if place is None or given.get("max_norm") is not None:  # max_norm rewrites the weight
            return
        name, first_row = place
        where = None if bias is None else self._place(bias)
        map_ = LinearMap.of(
            weight,
            n_dims,
            **{
                key: given[key]
                for key in ("groups", "stride", "padding", "dilation")
                if key in given
            },
            transposed=names is TRANSPOSED,
            lookup=names is EMBEDDING,
        )
        key = None if bias is None else ""
        # A bias goes with the rows of its weight only where the rows are outputs.
        if where is not None and where[1] == first_row and not map_.rows_are_inputs:
            key = where[0]
        self._on_use(Use(name, first_row, map_, key), given["input"], result)

    def _attend(self, bound: inspect.BoundArguments) -> Any:
        """Call the projections one by one, and attention with projections that do nothing."""
        bound.apply_defaults()
        given = bound.arguments
        if given["use_separate_proj_weight"]:
            weights = [given[f"{x}_proj_weight"] for x in "qkv"]
        else:
            weights = given["in_proj_weight"].chunk(3)
        bias = given["in_proj_bias"]
        biases = (None,) * 3 if bias is None else bias.chunk(3)
        given["query"], given["key"], given["value"] = (
            self._project(given[x], weight, bias)
            for x, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
        )
        out_weight, out_bias = given["out_proj_weight"], given["out_proj_bias"]
        nothing = torch.eye(len(out_weight), dtype=out_weight.dtype, device=out_weight.device)
        given |= {"use_separate_proj_weight": True, "in_proj_weight": None, "in_proj_bias": None}
        given |= {f"{x}_proj_weight": nothing for x in "qkv"}
        given |= {"out_proj_weight": nothing, "out_proj_bias": None}
        attended, weighed = F.multi_head_attention_forward(*bound.args, **bound.kwargs)
        return self._project(attended, out_weight, out_bias), weighed

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Attention has the sequence first; whoever is told wants the images there.
        x = x.transpose(0, 1) if x.ndim == 3 else x
        y = F.linear(x, weight, bias)
        self._tell(0, LINEAR, {"input": x, "weight": weight, "bias": bias}, y)
        return y.transpose(0, 1) if y.ndim == 3 else y

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
    """Say of parameters that no use was told of why that may be."""
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
