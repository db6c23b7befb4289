"""Which tensors of a run are made of which weights, and which of them an earlier run has left.

Every operation is seen below autograd, whoever calls it, and what it returns is made of what it
was given. Memory is told apart by its storage, so a view is what it is a view of. Nothing is kept
alive for it but what was there before the run.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from moeash.tracing.watching import tensors_in

VALUELESS = frozenset(
    f"{kind}_like" for kind in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")
) | {f"new_{kind}" for kind in ("empty", "empty_strided", "zeros", "ones", "full")}
"""Operations that look at a tensor's shape, dtype and device, and not at its values."""

OVERWRITING = frozenset({"copy_", "fill_", "zero_", "normal_", "uniform_"})
"""Operations after which nothing is left of what they write to."""

FOLLOWED_INPUTS = 2
"""Inputs that show what a network makes of its weights."""

SCALARS = frozenset({"_local_scalar_dense", "item"})
"""Operations that make a number of a tensor, which nobody can follow from there."""


@dataclass(frozen=True)
class Weight:
    """A tensor of the network's state, by ``state_dict`` key."""

    name: str


@dataclass(frozen=True)
class Input:
    """What the network was given."""


@dataclass(frozen=True, eq=False)
class Left:
    """A tensor that was there before the run, and is neither weight nor input.

    Attributes:
        tensor: itself.
        of: what it was made of in the earlier run, as far as that was seen.
    """

    tensor: Tensor
    of: "Origins"


Origins = frozenset[Weight | Input | Left]
NOTHING: Origins = frozenset()


def weights_of(origins: Iterable[Weight | Input | Left]) -> set[str]:
    """Return the names of the weights among origins."""
    return {origin.name for origin in origins if isinstance(origin, Weight)}


def left_of(origins: Iterable[Weight | Input | Left]) -> list[Left]:
    """Return what was there before the run among origins."""
    return [origin for origin in origins if isinstance(origin, Left)]


class Derivations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the tensors of one run.

    Attributes:
        read: what any operation of the run read.
        reached: what the run returned is made of.
        numbers: weights that alone made a floating number that left torch.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], given: Any, earlier: "Derivations | None" = None
    ) -> None:
        """Begin.

        Args:
            weights: the state's tensors.
            given: what the network is given.
            earlier: a run whose tensors may still be there.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: dict[int, tuple[StorageWeakRef, Origins]] = {}
        self._earlier = {} if earlier is None else earlier._made
        self.read: set[Weight | Input | Left] = set()
        self.reached: Origins = NOTHING
        self.numbers: set[str] = set()
        for tensor in tensors_in(given):
            self._make(tensor, frozenset({Input()}))
        for name, tensor in weights.items():
            known = self._made.get(_key(tensor) or 0, (None, NOTHING))[1]
            self._make(tensor, frozenset({*known, Weight(name)}) - {Input()})
        self._own = set(self._made)

    def finish(self, returned: Any) -> None:
        """Learn what the run returned; without a tensor in it, all that was read counts."""
        tensors = list(tensors_in(returned))
        found = self._all(tensors) if tensors else frozenset(self.read)
        self.reached = found
        for key in self._own:  # these are no remains of this run
            self._made.pop(key, None)

    @property
    def remains(self) -> set[str]:
        """The weights of which something is left after the run."""
        found: set[str] = set()
        for reference, origins in self._made.values():
            if not reference.expired():  # type: ignore[no-untyped-call]
                found |= weights_of(origins)
        return found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call an operation and note what its results are made of."""
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        written = list(_written(func, args, kwargs, overwriting=name in OVERWRITING))
        fresh = {key for tensor, whole in written if whole and (key := _key(tensor))}
        read = [t for t in tensors_in((args, kwargs)) if _key(t) not in fresh]
        origins = NOTHING if name in VALUELESS else self._all(read)
        self.read |= origins
        if name in SCALARS and read and read[0].is_floating_point():
            only = not any(not isinstance(origin, Weight) for origin in origins)
            self.numbers |= weights_of(origins) if only else set()
        result = func(*args, **kwargs)
        for tensor, _ in written:
            self._make(tensor, origins)
        aliases = {_key(tensor) for tensor in read}
        for tensor in tensors_in(result):
            if _key(tensor) not in aliases | fresh:
                self._make(tensor, origins)
        return result

    def _all(self, tensors: Iterable[Tensor]) -> Origins:
        return NOTHING.union(*(self._origins(tensor) for tensor in tensors))

    def _origins(self, tensor: Tensor) -> Origins:
        key = _key(tensor)
        if key is None:
            return NOTHING
        if key not in self._made:
            of = self._earlier.get(key, (None, NOTHING))[1]
            self._make(tensor, frozenset({Left(tensor.detach(), of)}))
        return self._made[key][1]

    def _make(self, tensor: Tensor, origins: Origins) -> None:
        key = _key(tensor)
        if key is not None:
            # The reference keeps the address from being another storage's, and no memory.
            reference = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
            self._made[key] = reference, origins


def _without_compiler(dispatch: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a mode does, kept from torch's compiler only where that is there.

    torch has every mode import its compiler at the first operation, to be left alone by it: a
    second of every process, and most compile nothing.
    """
    bare = getattr(dispatch, "__wrapped__", dispatch)

    def dispatched(*args: Any, **kwargs: Any) -> Any:
        return (dispatch if "torch._dynamo" in sys.modules else bare)(*args, **kwargs)

    return dispatched


Derivations.__torch_dispatch__ = _without_compiler(  # type: ignore[method-assign]
    Derivations.__torch_dispatch__
)


def _key(tensor: Tensor) -> int | None:
    """Return what tells a tensor's memory from all other; None where it has none of its own."""
    try:
        return tensor.untyped_storage()._cdata if tensor.numel() else None
    except (NotImplementedError, RuntimeError):  # sparse tensors, and those of other libraries
        return None


def _written(
    func: Any, args: Any, kwargs: Mapping[str, Any], *, overwriting: bool
) -> Iterator[tuple[Tensor, bool]]:
    """Yield the tensors an operation writes to, and whether nothing of them is left."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        for tensor in tensors_in(given):
            covers = tensor.nbytes == tensor.untyped_storage().nbytes() if _key(tensor) else False
            yield tensor, covers and (overwriting or argument.is_out)


# ------------------------------------------------------------------ runs


@dataclass(frozen=True)
class Conditions:
    """What of torch's state a run depends on."""

    inference: bool
    gradients: bool
    autocast: tuple[str, torch.dtype] | None

    @classmethod
    def now(cls, device: str) -> "Conditions":
        """Return those of this moment, on a type of device."""
        autocast = None
        if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
            autocast = device, torch.get_autocast_dtype(device)
        return cls(torch.is_inference_mode_enabled(), torch.is_grad_enabled(), autocast)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold them again."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.gradients and not self.inference))
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self.autocast[0], self.autocast[1]))
            yield


@dataclass(frozen=True, eq=False)
class Run:
    """A run of a network, or of a part that was called without it.

    Attributes:
        module: what was called.
        is_copy: it is a copy of the network.
        args: what it was given.
        kwargs: likewise.
        conditions: under which.
        seen: of its tensors.
    """

    module: nn.Module
    is_copy: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    conditions: Conditions
    seen: Derivations

    def again(self, network: nn.Module, earlier: Derivations | None) -> Derivations:
        """Run it once more, the network holding other weights, and follow the tensors."""
        seen = Derivations(state_of(network), (self.args, self.kwargs), earlier)
        with self.conditions.held(), seen:
            returned = self.module(*self.args, **self.kwargs)
        seen.finish(returned)
        return seen


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and the buffers that are in a network's state, by key."""
    found: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=False))
    for prefix, part in network.named_modules(remove_duplicate=False):
        for name, buffer in part.named_buffers(recurse=False):
            if name not in passing_buffers(part):
                found[f"{prefix}.{name}" if prefix else name] = buffer
    return found


def passing_buffers(part: nn.Module) -> set[str]:
    """Return the names of a module's own buffers that are not in its state."""
    # A scripted module hides what it does not know.
    return getattr(part, "_non_persistent_buffers_set", set())


def followed_run(network: nn.Module, run: Callable[[], object]) -> list[Run]:
    """Follow a run of a network; one that fails is reported by whoever runs it next."""
    with following(network) as runs:
        try:
            run()
        except Exception:
            runs.clear()
    return runs


@contextmanager
def following(network: nn.Module) -> Iterator[list[Run]]:
    """Follow the first run of a network while somebody else's code runs it, or copies of it.

    Where parts are called without the network, the first run of each such part is followed. Nothing
    is hung on the network, which may be copied and pickled meanwhile. A network that torch.compile
    has wrapped is left alone: it would run without being compiled.

    Yields:
        The runs, in the order they ended.
    """
    runs: list[Run] = []
    if any(hasattr(part, "_orig_mod") for part in network.modules()):
        yield runs
        return
    names: dict[int, str] = {id(part): name for name, part in network.named_modules()}
    done: set[str] = set()
    call, busy = nn.Module.__call__, False

    def wanted(part: nn.Module) -> str | None:
        name = names.get(id(part))
        if name is None and type(part) is type(network) and state_of(part).keys() == keys:
            name = ""
        if name is None or any(not d or name == d or name.startswith(f"{d}.") for d in done):
            return None
        return name

    def followed(part: nn.Module, *args: Any, **kwargs: Any) -> Any:
        nonlocal busy
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        recorded = traced or torch.compiler.is_compiling()
        if recorded or busy or (name := wanted(part)) is None:
            return call(part, *args, **kwargs)
        is_copy = id(part) not in names
        weights = state_of(part if is_copy else network)
        device = next((tensor.device.type for tensor in weights.values()), "cpu")
        conditions = Conditions.now(device)
        seen = Derivations(weights, (args, kwargs))
        busy = True
        try:
            with seen:
                returned = call(part, *args, **kwargs)
        finally:
            busy = False
        seen.finish(returned)
        done.add(name)
        runs.append(Run(part, is_copy, args, kwargs, conditions, seen))
        return returned

    keys = state_of(network).keys()
    nn.Module.__call__ = followed  # type: ignore[method-assign]
    try:
        yield runs
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]
