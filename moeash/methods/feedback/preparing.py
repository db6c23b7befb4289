"""Second-order feedback for a whole network: the work of once per study.

:func:`prepare` runs the calibration images through the network, factorises every curvature and
balances the rows in front of BatchNorms and those that the next layer's columns can undo; then it
passes some of the images again to see which rows can take up each other's errors.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from moeash.core.progress import Progress, silent
from moeash.data.inputs import Batch
from moeash.errors import InputError
from moeash.methods.feedback.assignment.columns import (
    LEAST_SENSITIVITY,
    Factor,
    prepare_feedback,
    span_of,
)
from moeash.methods.feedback.assignment.rows import ROWS, Rows, Sample, coupled, measure_between
from moeash.methods.feedback.balancing.grids import GridLoss
from moeash.methods.feedback.balancing.scales import Balancing, balanced, balanced_values
from moeash.methods.feedback.curvature.measuring import LayerCurvature, measure_curvature
from moeash.methods.feedback.curvature.sums import CurvatureKind, share_of_prior
from moeash.networks.devices import device_of
from moeash.networks.pickling import PickledAsArrays
from moeash.networks.writing.borrowing import Borrowed
from moeash.tracing.outputs import OutputOf
from moeash.tracing.pieces import FORWARD_ELEMENTS, pieces

TEMPERATURE = 4.0
"""Temperature of the softmax whose Hessian weighs the outputs; best or nearly so on three
networks, see :func:`moeash.methods.feedback.curvature.measuring.measure_curvature`."""


PRIOR = 0.4
"""Images more in which rows are like the average one. From 4,000 images on what that gives to rows
of layers of one group is less than
:data:`moeash.methods.feedback.assignment.columns.LEAST_SENSITIVITY`."""

NOT_FINITE = "its gradients on the calibration images are not finite"


@dataclass(frozen=True)
class Settings:
    """How a network is measured and factorised.

    Attributes:
        kind: which curvature; ``gradients`` of the output see more than ``inputs`` of each layer,
            see :mod:`moeash.methods.feedback.curvature.measuring`.
        sketches: see :func:`moeash.methods.feedback.curvature.measuring.measure_curvature`.
        temperature: likewise.
        damping: see :func:`moeash.methods.feedback.assignment.columns.prepare_feedback`.
        scarce: least damping of a layer that was seen at one position for every column; it grows
            with the square root of columns for a position.
        act_order: as damping.
        common_order: likewise; coupled rows then keep their own order, as trellises need it, too.
        rows: whether later rows take up errors of earlier ones, see
            :mod:`moeash.methods.feedback.assignment.rows`. If so, some images are kept in memory
            and passed once more.
        absorb: let biases and running means take up constant changes of their layer's outputs.
            Without, no row in front of a BatchNorm is balanced either.
        balancing: of rows.
        seed: of the sketches.
        prior: see :mod:`moeash.methods.feedback.curvature.sums`. Its share of all images is also
            the least sensitivity of rows, relative to their layer's mean.
    """

    kind: CurvatureKind = "gradients"
    sketches: int = 4
    temperature: float = TEMPERATURE
    damping: float = 0.01
    scarce: float = 0.0
    act_order: bool = True
    common_order: bool = False
    rows: Rows = "coupled"
    absorb: bool = True
    balancing: Balancing = field(default_factory=Balancing)
    seed: int = 0
    prior: float = PRIOR

    def __post_init__(self) -> None:
        if self.rows not in ROWS:
            raise InputError(f"rows are {' or '.join(ROWS)}, got {self.rows!r}")


@dataclass(frozen=True, eq=False)
class PreparedLayers(PickledAsArrays):
    """Everything about a network that does not depend on the candidate.

    Attributes:
        factors: the layers with a curvature, in execution order, rows already balanced.
        plain: shared weights without a curvature, by ``state_dict`` key; nearest entries for them.
        reasons: why, by the same keys.
        kept: values of kept tensors, by key: the biases and running statistics that belong to
            ``factors``. With them the balanced float weights are the same function as the network.
        notes: what people should know: which layers are treated in a simpler way, and why.
        bins: of the coarsest and the finest grid worth trying; None where they were given.
    """

    factors: tuple[Factor, ...]
    plain: dict[str, Tensor]
    reasons: dict[str, str]
    kept: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    bins: tuple[int, int] | None = None

    @property
    def n_calibrated(self) -> int:
        """Number of weights assigned with feedback."""
        return sum(factor.weight.numel() for factor in self.factors)

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest shared weight, or 0 where that reaches further."""
        weights = [*(factor.weight for factor in self.factors), *self.plain.values()]
        if not weights:
            raise InputError("the network has no weight to share")
        return span_of(weights)


def prepare(
    network: nn.Module,
    batches: Iterable[Batch],
    settings: Settings | None = None,
    *,
    shared: Collection[str] | None = None,
    unscaled: Collection[str] = (),
    output: OutputOf | None = None,
    progress: Progress = silent,
) -> PreparedLayers:
    """Measure a network and factorise it.

    Args:
        network: the float network, left as it is.
        batches: unlabelled calibration images ``(batch, ...)``, iterated once.
        settings: how; default: as the method does, with a small damping.
        shared: ``state_dict`` keys to share; by default every linear and convolution weight the
            network calls. Keys without a curvature get nearest entries and a reason.
        unscaled: BatchNorms by module name whose layers keep their rows as they are: folded ones
            (:mod:`moeash.compression.folding`). Their means still absorb.
        output: names the tensor that counts of what the network returns.
        progress: told after every batch and layer.

    Raises:
        InputError: ``shared`` names no parameter, or an argument is out of range.
        RescalingError: rows cannot be balanced as the settings ask.
        DataError: there are no images.
    """
    settings = settings or Settings()
    state = network.state_dict()
    unknown = sorted(set(shared or ()) - set(state))
    if unknown:
        raise InputError(f"the network has no parameter {', '.join(map(repr, unknown))}")
    for name, tensor in state.items():
        if tensor.is_inference():
            raise InputError(
                f"{name!r} was made in torch.inference_mode(), so there are no derivatives in it; "
                "make the network outside of it, or give a copy made there (copy.deepcopy(module))"
            )
    fixed = set(shared or ())
    if not settings.absorb:
        fixed |= set(state)
    elif not settings.balancing.through_norms:
        fixed |= {name for name in state if name.endswith("running_mean")}
    first = _First(batches, device_of(network))
    again = Sample()
    curvature = measure_curvature(
        network,
        again.watch(first) if settings.rows == "coupled" else first,
        kind=settings.kind,
        sketches=settings.sketches,
        temperature=settings.temperature,
        fixed=fixed,
        seed=settings.seed,
        output=output,
        prior=settings.prior,
    )
    left_out = curvature.left_out | {
        layer.name: NOT_FINITE for layer in curvature.layers if not layer.finite
    }
    layers = [
        replace(layer, norm=None) if layer.norm in unscaled else layer
        for layer in curvature.layers
        if layer.finite and (shared is None or layer.name in shared)
    ]
    n_images = curvature.images
    del curvature  # its matrices are twice as large as the factors: each goes when it is factorised
    factors = _factors(layers, settings, n_images, progress)
    plain, reasons = {}, {}
    for name in sorted(set(shared or ()) - {factor.name for factor in factors}):
        plain[name] = state[name].detach().float().clone()
        reasons[name] = left_out.get(name, "it is not the weight of a layer")
    batch = first.batch
    assert batch is not None
    looked_at = tuple(pieces(network, [batch], FORWARD_ELEMENTS))
    rescaled = balanced(
        network, factors, looked_at, settings.balancing, set(shared or ()), plain, output
    )
    factors, kept, notes = rescaled.factors, rescaled.kept, list(rescaled.notes)
    bins = None
    if settings.balancing.finest is None:
        progress("looking for useful grids", 0, None)
        grids = rescaled.grids or GridLoss(network, looked_at, plain, output).of(factors, kept)
        bins = grids.useful()
        del grids
    del rescaled
    if settings.rows == "coupled":
        images = _reported(again.batches(len(batch)), len(again), progress)
        with Borrowed(network) as borrowed:
            borrowed.put(balanced_values(factors, kept))
            factors = _with_coupled_rows(network, images, factors, settings, output, notes)
    return PreparedLayers(tuple(factors), plain, reasons, kept, tuple(notes), bins)


class _First:
    """Batches on a device, the first of which is held."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        self.batch: Batch | None = None
        self._batches, self._device = batches, device

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            there = batch.to(self._device)
            if self.batch is None:
                self.batch = there
            yield there


def _reported(images: Iterable[Batch], n_images: int, progress: Progress) -> Iterator[Batch]:
    """Yield batches of images, reporting how many have been measured."""
    done = 0
    for batch in images:
        yield batch
        done += len(batch)
        progress("measuring rows", done, n_images)


def _factors(
    layers: list[LayerCurvature], settings: Settings, n_images: int, progress: Progress
) -> list[Factor]:
    """Factorise every layer of so many images, emptying the list on the way."""
    least = max(LEAST_SENSITIVITY, share_of_prior(settings.prior, n_images))
    made: list[Factor] = []
    n_layers = len(layers)
    while layers:
        layer = layers.pop(0)
        scarcity = math.sqrt(layer.gram.shape[1] / max(1, layer.positions))
        made.append(
            prepare_feedback(
                layer,
                damping=max(settings.damping, settings.scarce * scarcity),
                act_order=settings.act_order,
                common_order=settings.common_order,
                least=least,
            )
        )
        progress("factorising layers", len(made), n_layers)
    return made


def _with_coupled_rows(
    network: nn.Module,
    batches: Iterable[Batch],
    factors: list[Factor],
    settings: Settings,
    output: OutputOf | None,
    notes: list[str],
) -> list[Factor]:
    """Return the factors with their rows coupled where that gains something.

    Args:
        network: holds the balanced weights.
        batches: images.
        factors: balanced.
        settings: how.
        output: as in :func:`prepare`.
        notes: gets a line for every layer whose rows cannot be coupled.
    """
    between = measure_between(
        network,
        batches,
        factors,
        sketches=settings.sketches,
        temperature=settings.temperature,
        seed=settings.seed + 1,  # other sketches than those that made the factors
        output=output,
    )
    made = []
    for factor in factors:
        found = factor
        if factor.name in between:
            with_rows = coupled(
                factor, between.pop(factor.name), natural_order=settings.common_order
            )
            if with_rows is None:
                notes.append(
                    f"rows of {factor.name} do not take up each other's errors: what they do "
                    "together cannot be factorised"
                )
            else:
                found = with_rows
        made.append(found)
    return made


def nearest_only(network: nn.Module, shared: Collection[str]) -> PreparedLayers:
    """Return what compressing needs to send every weight to its nearest entry."""
    state = network.state_dict()
    plain = {name: state[name].detach().float().clone() for name in shared}
    return PreparedLayers((), plain, dict.fromkeys(plain, "there are no calibration images"), {})
