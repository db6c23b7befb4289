"""What the error of one row does to the others: rows that take up each other's errors.

The recursion over columns hands the error of a weight to later columns of its own row. But rows
act together on the outputs, so later rows can take up errors of earlier ones as well. With a
curvature ``B (x) H``, B between rows and H between columns, ``inv(B) = V'V`` and ``inv(H) = U'U``,
weights are fixed column by column and within a column row by row, and choosing ``q_rt`` for
``w_rt`` moves::

    w_pt -= (w_rt - q_rt) V_rp / V_rr                  later rows p of the same column
    w_ps -= (w_pt - q_pt) U_ts / U_tt                  all rows p of later columns s

where the second line has the targets ``w_pt`` as they were before the first. That is optimal brain
surgery in lexicographic order, as the factor of a Kronecker product is the product of the factors.

What B is. A network's curvature is no Kronecker product, so B depends on what is asked of it. With
C = U / diag(U) and R = V / diag(V), the error left in the layer is ``R' d C``, where d is what each
weight is rounded by when its turn comes: independent numbers of one variance. Then the loss is, for
per-image gradients G in the weight, proportional to the sum over r and t of ``E (R G C')_rt^2``. So
for the C there is, no R does better than the factor of ``B = E[G C'C G']``, whatever the curvature.
``E[GG']`` sees how rows act together in columns whose errors have long been taken up by others: for
the last convolution of ResNet-20 it promises 62 % less loss on images held out, where B knows of
25 %, and its R raised the divergence.

B is measured in a second pass over part of the images, once C is known, the absorber's constant
eliminated from G. Its diagonal stays what all images said (the sensitivities). Two things keep what
it says between rows from being believed too much. The columns' curvature is damped, which is
curvature of every weight by itself: its share of what C leaves, part of B, is diagonal. And the
rest is divided by ``1 + shrinkage``, of :data:`SHRINKAGES` the one whose R, made from half of the
images, leaves least on the other half.

Source: feedback on both sides as in YAQA (Model-Preserving Adaptive Rounding, arXiv 2505.22988).
Differs: any entry may be chosen, at a price for its bits, and along trellises; B as above rather
than a factor of the nearest Kronecker product; damped and shrunk as said; the constant eliminated.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch, joined
from moeash.methods.feedback.assignment.columns import LEAST_SENSITIVITY, Factor, RowFactor
from moeash.methods.feedback.curvature.sums import pieces
from moeash.tracing.outputs import OutputOf
from moeash.tracing.passes import Passes, RecordedUse

Rows = Literal["coupled", "independent"]
"""Whether rows take up each other's errors."""

ROWS: tuple[str, ...] = get_args(Rows)

SHRINKAGES = (0.0, 0.1, 0.3, 1.0, 3.0)
"""Of B's off-diagonals, beside infinity: rows that have nothing to say to each other."""

MOST_ROWS = 2048
"""Layers (or groups) of more rows are left uncoupled: finding the shrinkage takes time with their
cube, 5 s for as many."""

LEAST_IMAGES = 256
SHARE = 4
"""The second pass sees LEAST_IMAGES or one image in SHARE, whichever is more, or down to half of
that. It costs about as much an image as the first pass; all images instead of an eighth of
5,000 made LeNet-300-100 2 % smaller."""

MOST_ELEMENTS = 1 << 26
"""Elements of the images kept for the second pass, at most: 256 MiB in float32."""


class Sample:
    """Some images of a stream of unknown length, evenly spread over it."""

    def __init__(self) -> None:
        self._chunks: list[Batch] = []
        self._stride = 1
        self._seen = 0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches; keep every n-th image, n doubling when there are too many."""
        for batch in batches:
            chunk = batch[-self._seen % self._stride :: self._stride]
            self._seen += len(batch)
            if len(chunk):
                self._chunks.append(chunk.clone())
            while len(self) > self._most():
                self._chunks = [joined(self._chunks)[::2].clone()]
                self._stride *= 2
            yield batch

    def __len__(self) -> int:
        return sum(len(chunk) for chunk in self._chunks)

    def _most(self) -> float:
        elements = sum(chunk.numel() for chunk in self._chunks)
        wanted = max(LEAST_IMAGES, math.ceil(self._seen / SHARE))
        return min(wanted, max(2, MOST_ELEMENTS * len(self) // max(elements, 1)))

    def batches(self, size: int) -> Iterator[Batch]:
        """Yield the images kept."""
        kept = joined(self._chunks)
        for start in range(0, len(kept), size):
            yield kept[start : start + size]


def measure_between(
    network: nn.Module,
    batches: Iterable[Batch],
    factors: Sequence[Factor],
    *,
    sketches: int = 4,
    temperature: float = 4.0,
    seed: int = 0,
    output: OutputOf | None = None,
) -> dict[str, Tensor]:
    """Run images through a network and return what each layer's rows do together.

    Args:
        network: holds the factors' weights (the balanced ones); left as it is.
        batches: images ``(batch, ...)``.
        factors: of the network's layers.
        sketches: as :func:`moeash.methods.feedback.curvature.measuring.measure_curvature`.
        temperature: likewise.
        seed: likewise; another than that of the factors.
        output: likewise.

    Returns:
        B by layer name, ``(2, groups, rows, rows)`` float64: a sum over every other image each.
        Layers of more than MOST_ROWS rows are missing, and embeddings, whose rows never meet.
    """
    by_name = {factor.name: factor for factor in factors}
    found: dict[str, Tensor] = {}
    run = Passes(network, sketches=sketches, temperature=temperature, seed=seed, output=output)
    for call, gradients, n_images in run.over(batches):
        factor = by_name.get(call.use.name)
        if factor is None or call.use.map.lookup or factor.weight.shape[1] > MOST_ROWS:
            continue
        if factor.name not in found:
            groups, rows, _ = factor.weight.shape
            found[factor.name] = torch.zeros(
                2, groups, rows, rows, dtype=torch.float64, device=factor.weight.device
            )
        _add(found[factor.name], factor, call, gradients, n_images)
    return found


@torch.no_grad()
def _add(
    total: Tensor, factor: Factor, call: RecordedUse, gradients: list[Tensor], images: int
) -> None:
    """Add one use of a weight, or of a range of its rows, by one batch."""
    map_ = call.use.map
    first = call.use.rows.start // factor.weight.shape[1]
    here = slice(first, first + map_.groups)
    absorbed, order, coupling = factor.absorbed[here], factor.order[here], factor.coupling[here]
    for x, g in pieces(call, gradients, images):
        taken = x - absorbed[:, :, None]  # (batch, groups, columns, positions)
        taken = taken.gather(2, order[:, :, None].expand_as(taken))
        n, (columns, positions), rows = g.shape[2], taken.shape[2:], factor.weight.shape[1]
        through_rows = n * columns * (positions + columns + rows)
        through_positions = positions * columns * (columns + positions)
        if through_rows <= through_positions + n * positions * (positions + rows):
            left = g @ taken.transpose(2, 3) @ coupling.transpose(1, 2)
            _add_halves(total[:, here], left, left)
        else:  # the same sums without forming the gradients: g(X'C'CX)g'
            through = coupling @ taken
            _add_halves(total[:, here], g, g @ (through.transpose(2, 3) @ through))


def _add_halves(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left right'``, images of even and odd place apart.

    Args:
        total: ``(2, groups, rows, rows)``.
        left: ``(batch, groups, sketches * rows, any)``.
        right: likewise.
    """
    rows = total.shape[2]
    for half in (0, 1):
        a, b = (torch.unflatten(side[half::2], 2, (-1, rows)) for side in (left, right))
        a, b = (side.permute(1, 3, 0, 2, 4).flatten(2) for side in (a, b))
        total[half] += (a @ b.transpose(1, 2)).double()


def coupled(factor: Factor, between: Tensor, *, natural_order: bool = False) -> Factor | None:
    """Return a layer's factor with its rows coupled, or as it is where that gains nothing.

    None where the correlations between its rows are not finite, or have no factor however much they
    are shrunk.

    Args:
        factor: from :func:`moeash.methods.feedback.assignment.columns.prepare_feedback`, balanced.
        between: ``(2, groups, rows, rows)`` from :func:`measure_between`.
        natural_order: fix rows in their own order, as trellises need it, rather than by decreasing
            sensitivity.
    """
    if not bool(torch.isfinite(between).all()):
        return None
    sensitivity = factor.sensitivity.double()
    order = torch.arange(sensitivity.shape[1], device=sensitivity.device).expand_as(sensitivity)
    if not natural_order:
        order = torch.argsort(sensitivity, dim=1, descending=True, stable=True)
    ordered = sensitivity.gather(1, order)
    precision = factor.variance.double().reciprocal()
    damped = (factor.damped.double() * precision).sum(1) / precision.sum(1)
    halves, both = (_correlations(b, order) for b in (between, between.sum(0, keepdim=True)))
    halves, both = (_pulled(b, damped[:, None, None]) for b in (halves, both))
    if any(_factor(part, SHRINKAGES[-1]) is None for part in (*halves, both[0])):
        return None
    shrinkage = _best_shrinkage(halves, ordered)
    if shrinkage is None:
        return factor
    # Each half can be factorised with what was found, and so can their mean but for rounding.
    made = _factor(both[0], shrinkage) or _factor(both[0], SHRINKAGES[-1])
    if made is None:
        return None
    unit, relief = made
    root = ordered.sqrt()
    coupling = unit * root.unsqueeze(2) / root.unsqueeze(1)
    return replace(
        factor, rows=RowFactor(order.contiguous(), coupling.float(), relief.float().contiguous())
    )


def _correlations(between: Tensor, order: Tensor) -> Tensor:
    """Return ``(any, groups, rows, rows)``: moments scaled to a unit diagonal, rows in order."""
    between = (between + between.transpose(2, 3)) / 2
    diagonal = between.diagonal(dim1=2, dim2=3)
    floor = LEAST_SENSITIVITY * diagonal.mean(2, keepdim=True)
    root = diagonal.maximum(floor).sqrt()
    root = torch.where(root > 0, root, 1.0)
    scaled = between / root.unsqueeze(3) / root.unsqueeze(2)
    scaled.diagonal(dim1=2, dim2=3).fill_(1.0)
    rows = order[None, :, :, None].expand_as(scaled)
    return scaled.gather(2, rows).gather(3, rows.transpose(2, 3))


def _best_shrinkage(halves: Tensor, sensitivity: Tensor) -> float | None:
    """Return the shrinkage whose factor of one half of the images suits the other half best.

    None where no coupling at all is best.
    """
    best, least = None, 2 * float(sensitivity.sum())
    for shrinkage in reversed(SHRINKAGES):
        loss = 0.0
        for mine, other in ((halves[0], halves[1]), (halves[1], halves[0])):
            made = _factor(mine, shrinkage)
            # Rows of one image are multiples of one another: without shrinkage there is no factor.
            left = math.inf if made is None else _left(made[0], other, sensitivity)
            loss += left
        if not loss < least:
            break  # from strong to weak, it falls and then rises
        best, least = shrinkage, loss
    return best


def _left(unit: Tensor, other: Tensor, sensitivity: Tensor) -> float:
    return float((((unit @ other) * unit).sum(2) * sensitivity).sum())


def _pulled(correlation: Tensor, share: Tensor | float) -> Tensor:
    """Return correlations mixed with the identity, of which ``share`` is taken."""
    pulled = correlation * (1 - share)
    pulled.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    return pulled


def _factor(correlation: Tensor, shrinkage: float) -> tuple[Tensor, Tensor] | None:
    """Return V / diag(V) and diag(V)^2, V'V the inverse of the shrunk correlations, V upper.

    None where rounding has made them no correlations.
    """
    shrunk = _pulled(correlation, shrinkage / (1 + shrinkage))
    # The factor of the inverse is the inverse of the factor from the other end.
    lower, failed = torch.linalg.cholesky_ex(shrunk.flip(1, 2))
    if bool(failed.any()):
        return None
    upper = lower.flip(1, 2)
    diagonal = upper.diagonal(dim1=1, dim2=2)
    unit = torch.linalg.solve_triangular(upper, torch.diag_embed(diagonal), upper=True)
    # diag(R) inv(R): rows, not columns, are scaled.
    unit = unit / diagonal.unsqueeze(1) * diagonal.unsqueeze(2)
    return unit.triu(), diagonal.square().reciprocal()
