"""The one way to watch a network run: every function of torch it calls, before and after.

Not at modules: attention hands its weights to one function and never calls its output projection,
Swin blocks call ``F.linear`` with the weights of a module they never call, and a function may read
the vectors of a BatchNorm directly. What else is known about a run (:mod:`moeash.tracing.uses`,
:mod:`moeash.tracing.trace`, :mod:`moeash.tracing.passes`) is made of these calls.

Attention is taken apart into its four projections, so that each is seen; its outputs are the same
but for the rounding of one matrix product that becomes three.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ATTENTION = inspect.signature(F.multi_head_attention_forward)


@dataclass(eq=False)
class Call:
    """One call of a function of torch.

    Attributes:
        function: what was called.
        args: as they were given.
        kwargs: likewise.
        result: what it returned; None before it did.
    """

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result: Any = None

    @property
    def name(self) -> str:
        """The function's name, empty when it has none."""
        return getattr(self.function, "__name__", "")

    def arguments(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the arguments by name, given the names of the positional ones."""
        return dict(zip(names, self.args, strict=False)) | dict(self.kwargs)


OnCall = Callable[[Call], None]


class _PassEnded(BaseException):
    """Ends a pass. No :class:`Exception`, so that no network's own handler takes it for an error.

    Attributes:
        watcher: the one that ends its pass.
    """

    def __init__(self, watcher: "Watcher") -> None:
        super().__init__("a watcher has seen what the pass was for")
        self.watcher = watcher


class Watcher(TorchFunctionMode):
    """Shows the calls of a network while it runs, and can end the run early.

    ``with watcher: network(batch)`` calls ``before`` and ``after`` for every function of torch. The
    functions that they call themselves are not shown.

    Args:
        before: called in front of each function, with no result yet.
        after: called behind each function.
    """

    def __init__(self, *, before: OnCall | None = None, after: OnCall | None = None) -> None:
        super().__init__()
        self._before = before
        self._after = after
        self._ended = False

    def end(self) -> NoReturn:
        """End the pass: what follows the ``with`` statement runs next.

        To be called from ``before`` or ``after``. A network that catches even this one goes no
        further than its next function of torch.
        """
        self._ended = True
        raise _PassEnded(self)

    def __enter__(self) -> "Watcher":
        self._ended = False
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool:
        super().__exit__(kind, error, traceback)  # type: ignore[no-untyped-call]
        return isinstance(error, _PassEnded) and error.watcher is self

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call the function and show the call."""
        if func is F.multi_head_attention_forward:
            return self._attend(ATTENTION.bind(*args, **(kwargs or {})))
        return self._call(func, *args, **(kwargs or {}))

    def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._ended:
            raise _PassEnded(self)
        call = Call(function, args, kwargs)
        if self._before is not None:
            self._before(call)
        call.result = function(*args, **kwargs)
        if self._after is not None:
            self._after(call)
        return call.result

    def _attend(self, bound: inspect.BoundArguments) -> Any:
        """Call the projections one by one, and attention with projections that do nothing."""
        bound.apply_defaults()
        given = bound.arguments
        if given["use_separate_proj_weight"]:
            weights = [given[f"{x}_proj_weight"] for x in "qkv"]
        else:
            weights = self._call(Tensor.chunk, given["in_proj_weight"], 3)
        bias = given["in_proj_bias"]
        biases = (None,) * 3 if bias is None else self._call(Tensor.chunk, bias, 3)
        given["query"], given["key"], given["value"] = (
            self._project(given[x], weight, bias)
            for x, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
        )
        out_weight, out_bias = given["out_proj_weight"], given["out_proj_bias"]
        nothing = torch.eye(len(out_weight), dtype=out_weight.dtype, device=out_weight.device)
        given |= {"use_separate_proj_weight": True, "in_proj_weight": None, "in_proj_bias": None}
        given |= {f"{x}_proj_weight": nothing for x in "qkv"}
        given |= {"out_proj_weight": nothing, "out_proj_bias": None}
        attended, weighed = self._call(F.multi_head_attention_forward, *bound.args, **bound.kwargs)
        return self._project(attended, out_weight, out_bias), weighed

    def _project(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Attention has the sequence first; layers are shown with the images there.
        first = x.ndim == 3
        y: Tensor = self._call(
            F.linear, self._call(Tensor.transpose, x, 0, 1) if first else x, weight, bias
        )
        return self._call(Tensor.transpose, y, 0, 1) if first else y


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested containers and dataclasses."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for value in values.values():
            yield from tensors_in(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors_in(value)
    elif is_dataclass(values) and not isinstance(values, type):
        for part in fields(values):
            yield from tensors_in(getattr(values, part.name, None))


@contextmanager
def derivatives() -> Iterator[None]:
    """Let derivatives be taken where the caller has switched them off for work of his own."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Hold a network in eval mode, and leave every module in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
