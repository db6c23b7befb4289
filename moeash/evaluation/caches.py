"""Networks that keep what they made of their weights, and so do not follow what is written to them.

A normalised, fused, quantised or transposed copy of a weight, made on the first pass and kept, is
the float network's for every candidate: nothing seems to cost anything. So once, at the opening,
the network is run with other weights than before, and what its outputs are made of is followed.
That is no comparison of outputs: weights that do not matter are no fault.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from moeash.core.codebook import Codebook, SharedWeights, State, keep_all, share
from moeash.data.inputs import Batch, call
from moeash.errors import InputError
from moeash.networks.network import Network
from moeash.networks.writing.inplace import WeightWriter
from moeash.tracing.derived import (
    Derivations,
    Input,
    Left,
    Run,
    followed_run,
    left_of,
    passing_buffers,
    weights_of,
)
from moeash.tracing.watching import tensors_in


def run_on(network: Network, batch: Batch) -> list[Run]:
    """Run a network on a few inputs and follow that; it holds its float weights."""
    with torch.no_grad(), _same_numbers(network):
        return followed_run(network.module, lambda: call(network.module, batch))


def check_caches(network: Network, runs: Sequence[Run]) -> tuple[str, ...]:
    """See whether a network follows its weights. It holds its float weights afterwards.

    Args:
        network: in eval mode.
        runs: of it.

    Returns:
        What could not be decided, one line each.

    Raises:
        InputError: outputs are made of what it keeps of other weights than it holds.
    """
    shared = {p.name for p in network.state if p.role == "shared"}
    writer = WeightWriter(network.module, network.state)
    stale: set[str] = set()
    unsure: set[str] = set()
    with _same_numbers(network):
        for run in runs:
            found, doubtful = _looked_at(network, writer, run, shared)
            stale |= found
            unsure |= doubtful
    if stale:
        ordered = [p.name for p in network.state if p.name in stale]
        excluded = ", ".join([*map(repr, ordered[:3]), *(["…"] if len(ordered) > 3 else [])])
        raise InputError(
            f"{type(network.module).__name__} keeps what it once made of {_named(ordered)} and "
            "uses it again when other weights are there, so candidates would be measured with the "
            "float network's; needed are outputs that follow the weights: drop what is kept when "
            "they change (Tensor._version counts every write), compute it in forward, or leave "
            f"them as they are with network.exclude = [{excluded}]"
        )
    unsure_of = [p.name for p in network.state if p.name in unsure]
    if not unsure_of:
        return ()
    return (
        f"{type(network.module).__name__} may keep what it made of {_named(unsure_of)} when other "
        "weights are written: it no longer looks at them, and looks at something kept instead; if "
        "so, candidates are measured with the weights of the float network",
    )


def check_measured(
    network: Network, measure: Callable[[], float], baseline: float
) -> tuple[str, ...]:
    """See whether a function follows a network's weights that it never ran, but maybe a copy of it.

    Afterwards the network holds its float weights.

    Args:
        network: in eval mode.
        measure: what the function says of the network as it is.
        baseline: what it said of the float weights.

    Returns:
        That it gave the same number for weights of which each is another, if it did, in one line.
    """
    writer = WeightWriter(network.module, network.state)
    try:
        with _same_numbers(network), _no_trace(network.module):
            writer.write(_others(network.state))
            alike = measure() == baseline
    except Exception:  # what fails with other weights looks at them
        return ()
    finally:
        writer.restore()
    if not alike:
        return ()
    return (
        f"evaluate(module) did not run the {type(network.module).__name__} it was given, and "
        f"returned {baseline:g} for the float weights and for others as well; if it measures "
        "another network, no number of this study says anything of a candidate",
    )


def _looked_at(
    network: Network, writer: WeightWriter, run: Run, shared: set[str]
) -> tuple[set[str], set[str]]:
    """Return the names that a run is certainly not led by, and those it may not be led by."""
    first = run.seen
    unread = _within(network, run, shared) - weights_of(first.reached)
    if run.is_copy:  # what the network itself has never run has kept nothing
        return set(), _alike(network, unread, left_of(first.reached))
    with _no_trace(network.module):
        second = _with_others(network, writer, run, first)
        if second is None:
            return set(), first.remains & shared
        stale = _stale(second, shared)
        if not stale and second.remains & shared:  # of something that the first run did not make
            third = _run_again(network, run, second)
            stale = set() if third is None else _stale(third, shared)
    if stale:
        return stale, set()
    lost = (weights_of(first.read) - weights_of(second.read)) & shared
    unsure = _alike(network, lost, left_of(second.reached))
    unsure |= (first.numbers - second.numbers) & shared
    unread -= weights_of(second.reached)  # what is kept was good until they changed
    if unread:
        kept = left_of(first.reached)
        with _no_trace(network.module):
            stale = _made_anew(network, writer, run, kept, unread)
        unsure |= _alike(network, unread, kept)
    return stale, unsure - stale


def _stale(seen: Derivations, shared: set[str]) -> set[str]:
    """Return the shared weights of which the outputs have something of an earlier run.

    What was made of inputs too may be a network's memory of them, as long as weights are read.
    """
    found: set[str] = set()
    for left in left_of(seen.reached):
        names = weights_of(left.of) & shared
        found |= names - weights_of(seen.read) if Input() in left.of else names
    return found


def _with_others(
    network: Network, writer: WeightWriter, run: Run, earlier: Derivations | None
) -> Derivations | None:
    """Run with other weights; None where that fails."""
    try:
        writer.write(_others(network.state))
        return _run_again(network, run, earlier)
    finally:
        writer.restore()


def _run_again(network: Network, run: Run, earlier: Derivations | None) -> Derivations | None:
    try:
        return run.again(network.module, earlier)
    except Exception:  # other weights may be nothing that its code can take
        return None


def _others(state: State) -> SharedWeights:
    """Return weights of which none is what it was: two entries, by sign."""
    shared = [p for p in state if p.role == "shared"]
    sizes = [
        float(np.abs(p.values).mean(dtype=np.float64))
        for p in shared
        if p.values is not None and p.values.size
    ]
    size = float(np.mean(sizes)) if sizes and np.mean(sizes) > 1e-6 else 1e-2
    # Weights may be of one size themselves, so the entries are of other sizes.
    codebook = Codebook(np.array([-1.25 * size, 0.75 * size], np.float32))
    assigned = {}
    for parameter in shared:
        assert parameter.values is not None
        indices = (np.ravel(parameter.values) >= 0).astype(np.uint8)
        assigned[parameter.name] = (0, indices, np.bincount(indices, minlength=2))
    return share(state, [codebook], assigned, keep_all(state))


# ------------------------------------------------------------------ kept before anybody looked


def _alike(network: Network, unread: set[str], kept: Sequence[Left]) -> set[str]:
    """Return the weights that something kept might have been made of: it has as many elements."""
    sizes = {p.name: int(np.prod(p.shape)) for p in network.state if p.name in unread}
    counts = {left.tensor.numel() for left in kept if left.tensor.numel() > 1}
    if sum(sizes.values()) in counts:
        return set(sizes)
    return {name for name, n in sizes.items() if n in counts}


def _made_anew(
    network: Network, writer: WeightWriter, run: Run, kept: Sequence[Left], unread: set[str]
) -> set[str]:
    """Return the weights of which something was kept before anybody looked.

    What modules hold is taken from them, one by one, and given back: if a run makes it anew of
    weights, and the next one does not, it was such a thing.
    """
    storages = {left.tensor.untyped_storage().data_ptr() for left in kept}
    stale: set[str] = set()
    for holder, key in list(_holders(network.module, storages)):
        held = holder[key]
        for without in _ways_without(held):
            try:
                if without is _GONE:
                    del holder[key]
                else:
                    holder[key] = without
                first = run.again(network.module, None)
                second = _with_others(network, writer, run, first)
            except Exception:  # the network needs what was taken, or needs it otherwise
                continue
            finally:
                holder[key] = held
            if second is not None and (found := _stale(second, unread)):
                stale |= found
                break
    return stale


_REGISTERED = ("_parameters", "_buffers", "_modules")
_GONE = object()


def _ways_without(held: Any) -> Iterator[Any]:
    """Yield what a module may hold in the place of something that is not made yet."""
    if isinstance(held, dict | list | set):
        yield type(held)()
    yield None
    yield _GONE


def _holders(module: nn.Module, storages: set[int]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the dictionaries and keys by which modules hold memory outside their state."""
    for part in module.modules():
        for key, value in vars(part).items():
            if key not in _REGISTERED and _holds(value, storages):
                yield vars(part), key
        for key, value in part._buffers.items():
            if key in passing_buffers(part) and _holds(value, storages):
                yield part._buffers, key


def _holds(value: Any, storages: set[int]) -> bool:
    return any(
        tensor.layout is torch.strided and tensor.untyped_storage().data_ptr() in storages
        for tensor in tensors_in(value)
    )


# ------------------------------------------------------------------ small things


def _within(network: Network, run: Run, shared: set[str]) -> set[str]:
    """Return the shared weights that belong to what was called."""
    if run.is_copy or run.module is network.module:
        return shared
    names = {name for name, part in network.module.named_modules() if part is run.module}
    return {key for key in shared if any(key.startswith(f"{name}.") for name in names)}


def _named(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first!r} and {len(others)} more" if others else f"{first!r}"


@contextmanager
def _no_trace(module: nn.Module) -> Iterator[None]:
    """Take back what modules come to hold meanwhile, as it may be made of weights of no use."""
    attributes: list[tuple[dict[str, Any], dict[str, Any]]] = []
    contents: list[tuple[Any, Any]] = []
    for part in module.modules():
        for holder in (vars(part), part._buffers):
            if isinstance(holder, dict):  # a scripted module's are no dictionaries
                attributes.append((holder, dict(holder)))
        own = (v for key, v in vars(part).items() if key not in _REGISTERED)
        contents += [(v, copy.copy(v)) for v in own if type(v) in (dict, list, set)]
    try:
        yield
    finally:
        for holder, before in attributes:
            for key in holder.keys() - before.keys():
                del holder[key]
            for key, value in before.items():
                if key not in holder or holder[key] is not value:
                    holder[key] = value
        for held, before in contents:
            held.clear()
            held.extend(before) if isinstance(held, list) else held.update(before)


@contextmanager
def _same_numbers(network: Network) -> Iterator[None]:
    """Leave the random numbers of whoever comes next as they were."""
    devices = {t.device for t in network.module.parameters() if t.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices, key=str)):
        yield
