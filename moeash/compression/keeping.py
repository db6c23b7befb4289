"""Decide once per study how kept tensors are stored, by what that does to the outputs.

The effect is measured where it happens: on one compressed network from the middle of the search
space, on images of the search split, as the Kullback-Leibler divergence of its outputs before and
after. Top-1 is too coarse to see a bias rounded. No labels are used.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, floor, inf, log2

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from moeash.codec.size import size
from moeash.compression.narrowing import without_harmful
from moeash.compression.options import CodecOptions
from moeash.compression.probing import OutputProbe, groups
from moeash.core.codebook import KeptTensor, SharedWeights, keep_all
from moeash.core.kept import EXPONENTS, STEPPED_DTYPES, Keeping, Norm
from moeash.data.splits import Split
from moeash.methods.base import Images
from moeash.networks.network import Network
from moeash.networks.norms import find_norms, key
from moeash.networks.sameness import SAME_FUNCTION
from moeash.networks.writing.inplace import WeightWriter
from moeash.tracing.outputs import NAME_IT

TOLERANCE = 0.01
"""What rounding kept tensors may add, relative to what sharing the weights costs: the divergence of
the compressed from the float network. A byte spent on weights buys about as much there."""

PROBE_BITS = 7
"""Bits of the integers, sign included, at which a tensor's effect is measured."""

MAX_BITS = 12
"""Bits from which on float16 is as precise and takes no measuring."""

MIN_BITS = 3
"""Fewest bits, sign included, of a tensor's largest integer."""


@dataclass(frozen=True, eq=False)
class Stored:
    """How kept tensors will be stored.

    Attributes:
        keeping: the decision.
        notes: what people should know about it, one line each.
    """

    keeping: Keeping
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """A user's function, where one measures the network.

    Attributes:
        baseline: what it gave for the float network.
        again: measures the module as it is.
    """

    baseline: float
    again: Callable[[], float]


def decide_keeping(
    network: Network,
    writer: WeightWriter,
    search: Split | None,
    *,
    codec: CodecOptions,
    typical: Callable[[], SharedWeights],
    batch_size: int,
    device: str,
    inputs: Images | None = None,
    measure: Measure | None = None,
) -> Stored:
    """Decide how the kept tensors of a study are stored. The network has its float weights after.

    Whether BatchNorms may be stored as two vectors is found by running the network: on images of
    the search split, else on calibration inputs, else by the user's function. Which tensors float16
    does not suit is found on images or inputs likewise; a user's function measures what float16
    does in every candidate. Where nothing can be measured every tensor is stored as it is.

    Args:
        network: the float network.
        writer: writes into it.
        search: the search split, where there is one.
        codec: the study's choice; ``kept = "auto"`` needs a search split.
        typical: makes a compressed network from the middle of the search space.
        batch_size: inputs a forward pass.
        device: the network's.
        inputs: calibration inputs, where there are some.
        measure: the user's function, where one measures.
    """
    kept = codec.kept
    as_they_are = codec.norms == "as_they_are"
    found = () if as_they_are else find_norms(network.module, network.state)
    exact = float_buffers(network.module)
    notes: tuple[str, ...] = ()
    probe: OutputProbe | None = None
    looked_at = inputs if search is None else search
    if looked_at is not None and (found or kept != "float32"):
        probe = OutputProbe(network, writer, looked_at, batch_size=batch_size, device=device)
        if not probe.compares:
            probe = None
    try:
        if probe is None and measure is None:
            wanted = Keeping("float16" if kept == "auto" else kept, found, exact=exact)
            return _as_it_is(network, wanted, codec.coder, looked_at is not None)
        if found:
            found, notes = _confirmed(network, writer, probe, measure, found)
        if kept != "auto":
            keeping = Keeping(kept, found, exact=exact)
            if kept == "float16" and probe is not None:
                keeping, more = without_harmful(probe, keep_all(network.state), keeping)
                notes += more
            return Stored(keeping, notes)
        assert probe is not None and search is not None, "auto measures on the search split"
        chosen = choose_precision(
            probe, typical(), found, coder=codec.coder, tolerance=TOLERANCE, left=exact
        )
        return replace(chosen, notes=notes + chosen.notes)
    finally:
        writer.restore()


def _as_it_is(network: Network, wanted: Keeping, coder: str, has_inputs: bool) -> Stored:
    """Return every kept tensor as it is, and a note on what measuring might save."""
    exact, plain = Keeping("float32"), keep_all(network.state)
    saved = _kept_bytes(exact, plain, coder) - _kept_bytes(wanted, plain, coder)
    if saved <= 0:
        return Stored(exact)
    why = (
        f"the network returns no tensor by which to check what that does; {NAME_IT}"
        if has_inputs
        else "there are no inputs to check on what that does; pass calibration="
    )
    ways = [
        *(["BatchNorms as two vectors"] if wanted.norms else []),
        *(["float16"] if wanted.precision == "float16" else []),
    ]
    return Stored(
        exact,
        (
            f"kept tensors are stored as they are: {' and '.join(ways)} would save {saved:,} "
            f"bytes, but {why}",
        ),
    )


def _confirmed(
    network: Network,
    writer: WeightWriter,
    probe: OutputProbe | None,
    measure: Measure | None,
    norms: tuple[Norm, ...],
) -> tuple[tuple[Norm, ...], tuple[str, ...]]:
    """Return the norms if storing them as two vectors leaves the network as it is, else none.

    Something else than its own ``forward`` may read a BatchNorm's statistics; only running the
    network tells.
    """
    plain = keep_all(network.state)
    kept = Keeping("float32", norms).stored(plain).values()
    writer.restore()
    if probe is not None:
        moved = probe.moved(plain.values(), kept)
        why = f"the outputs by {moved:.2g} of the largest, so something else reads their statistics"
    else:
        assert measure is not None, "what cannot be measured is stored as it is"
        writer.write_kept(kept)
        found = measure.again()
        moved = abs(found - measure.baseline) / max(abs(measure.baseline), 1e-12)
        why = (
            f"the metric from {measure.baseline:.6g} to {found:.6g}; if that is rounding alone, "
            "pass calibration=, by which outputs are compared"
        )
    if moved <= SAME_FUNCTION:
        return norms, ()
    return (), (f"BatchNorms are stored as they are: as two vectors they move {why}",)


def float_buffers(module: nn.Module) -> tuple[str, ...]:
    """Return the ``state_dict`` keys of floating buffers other than the statistics of norms."""
    found = []
    for prefix, part in module.named_modules(remove_duplicate=False):
        statistics = ("running_mean", "running_var") if isinstance(part, _NormBase) else ()
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point() and name not in statistics:
                found.append(key(prefix, name))
    return tuple(found)


def divergence(expected: Tensor, outputs: Tensor) -> float:
    """Return the mean Kullback-Leibler divergence of outputs from expected ones, in nats.

    Args:
        expected: ``(n, classes)`` logits.
        outputs: likewise. NaN is infinitely far away.
    """
    p, q = expected.log_softmax(1), outputs.log_softmax(1)
    value = float((p.exp() * (p - q)).sum(1).mean())
    return max(value, 0.0) if np.isfinite(value) else float("inf")


def choose_precision(
    probe: OutputProbe,
    shared: SharedWeights,
    norms: tuple[Norm, ...],
    *,
    coder: str,
    tolerance: float,
    left: tuple[str, ...] = (),
) -> Stored:
    """Choose a precision for every kept tensor of a study.

    Rounding a tensor to steps of ``2**e`` diverges in proportion to ``4**e``, and what several
    tensors do adds up, to first order. Every tensor is measured once at :data:`PROBE_BITS`; a price
    in nats per element then gives all of them the steps at which the next bit is worth that price.
    Prices are tried from high to low, halving, until the network measured with all steps at once is
    within the tolerance. A higher tolerance therefore ends at the same price or an earlier one.

    Args:
        probe: runs the network.
        shared: a typical compressed network, kept tensors in the precision of the network.
        norms: BatchNorms to store as two vectors.
        coder: entropy coder of the file; steps are taken only where they make it smaller.
        tolerance: largest divergence from ``shared`` relative to its own from the float network.
        left: names of tensors that keep the precision of the network.
    """
    kept = {tensor.name: tensor for tensor in shared.kept}
    exact = Keeping("float32", norms, exact=left)
    probe.write(None)
    before = probe.outputs()
    probe.write(shared)
    expected = probe.outputs(exact.stored(kept).values())
    allowed = tolerance * divergence(before, expected)

    def effect(keeping: Keeping) -> float:
        return divergence(expected, probe.outputs(keeping.stored(kept).values()))

    half = replace(exact, precision="float16")
    plain = half if effect(half) <= allowed else exact
    tensors = {
        name: t for name, t in exact.stored(kept).items() if _may_step(t) and name not in left
    }
    if not tensors or not allowed:
        return Stored(plain)
    rules = []
    for group in groups(tensors):
        exponents = {name: _probe_exponent(tensors[name]) for name in group}
        rules.append((group, effect(replace(exact, exponents=exponents))))
    for exponents in _ladder(rules, tensors, start=4 * allowed):
        stepped = replace(plain, exponents=exponents)
        cost = effect(stepped)
        if cost <= allowed:
            break
    if not exponents or _kept_bytes(stepped, kept, coder) >= _kept_bytes(plain, kept, coder):
        return Stored(plain)
    n_stepped = sum(tensors[name].size for name in exponents)
    n_floats = sum(t.size for t in tensors.values())
    return Stored(
        stepped,
        (
            f"{n_stepped:,} of {n_floats:,} kept floats are stored as integers; that moves the "
            f"outputs by {cost:.2g} nats, {allowed:.2g} are allowed ({probe.n_passes} passes over "
            "a few search images)",
        ),
    )


Rule = tuple[tuple[str, ...], float]
"""Names of tensors, and the divergence when all of them have :data:`PROBE_BITS`."""


def _ladder(
    rules: list[Rule], tensors: Mapping[str, KeptTensor], *, start: float
) -> Iterator[dict[str, int]]:
    """Yield exponents by name from coarse to fine, beginning about where ``start`` is diverged.

    The last are none.
    """
    sizes = [sum(tensors[name].size for name in group) for group, _ in rules]

    def at(price: float) -> tuple[dict[str, int], float]:
        exponents: dict[str, int] = {}
        predicted = 0.0
        for (group, cost), n in zip(rules, sizes, strict=True):
            # Wanted: cost * 4**coarser == price * n, where cost may be 0 or infinite.
            wanted = log2(price * n / cost) / 2 if 0 < cost < inf else (inf if not cost else -inf)
            coarser = floor(min(max(wanted, PROBE_BITS - MAX_BITS), PROBE_BITS - MIN_BITS))
            if PROBE_BITS - coarser < MAX_BITS:
                exponents |= {name: _probe_exponent(tensors[name]) + coarser for name in group}
                predicted += cost * 4.0**coarser
        return exponents, predicted

    price = 2.0**10
    while at(price)[1] > start:
        price /= 2
    last: dict[str, int] | None = None
    while exponents := at(price)[0]:
        if exponents != last:
            yield exponents
        last = exponents
        price /= 2
    yield {}


def _may_step(tensor: KeptTensor) -> bool:
    """Tell whether steps could make a tensor smaller: a constant one costs next to nothing."""
    values = tensor.values
    return (
        tensor.dtype in STEPPED_DTYPES
        and bool(np.isfinite(values).all())
        and bool((values != values.flat[0]).any() if values.size else False)
    )


def _probe_exponent(tensor: KeptTensor) -> int:
    largest = 2 ** (PROBE_BITS - 1) - 1
    wanted = ceil(log2(float(np.abs(tensor.values).max()) / largest))
    # Room on both sides for what the ladder adds and takes away.
    return min(max(wanted, EXPONENTS[0] + MAX_BITS), EXPONENTS[-1] - MAX_BITS)


def _kept_bytes(keeping: Keeping, kept: Mapping[str, KeptTensor], coder: str) -> int:
    return size(SharedWeights((), tuple(keeping.stored(kept).values())), coder=coder).total
