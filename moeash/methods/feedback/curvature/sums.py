"""Running sums from which one weight tensor's curvature is made, and what they cannot see.

A quadratic model knows what calibration images show it. Two things it does not see cost
EfficientNet-Lite0 five times what the whole model promised, by one channel of 480:

* **Rows that are hardly met.** A channel that is active in one image of a thousand has no curvature
  on two hundred that happen to miss it. Its weights then go where bits are cheapest, and its scale
  to the smallest there is. So every row is taken to have been met in one image more (``prior``), in
  which it was like the average row of its layer: Laplace's rule of succession. With N images seen,
  for a group of rows whose inputs have the mean m, that image has::

      gram      average over the layer of the groups' Gram matrices, absorber eliminated, + c m m'
      mixed     c m       constant   c, the average over the layer       energy   the average

  each divided by the share of images in which rows are met, as all are in this one; an embedding's
  rows are met in few.

* **Positions without a gradient.** Behind a ReLU, most positions of a rarely active channel have no
  gradient, so the model takes an absorber to move them for free. But a move large enough wakes them
  up. So each of them counts as AWAKE of one that has a gradient: added to ``gram``, ``mixed`` and
  ``constant`` is ``AWAKE (1 / active - 1) constant`` times ``m m'``, m and 1, where ``active`` is
  the share of positions with a gradient. Where half of them have one that is a hundredth; where one
  in a thousand has, the absorber keeps the mean of the outputs, as bias correction does.

Both are for groups and embeddings. The rows of a layer of one group share its Gram matrix and what
is absorbed, so none of them hangs on a few positions of its own; they are only held to a least
sensitivity (:func:`moeash.methods.feedback.assignment.columns.prepare_feedback`).

Source: ours.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from moeash.tracing.passes import RecordedUse
from moeash.tracing.patches import (
    PATCH_ELEMENTS,
    LinearMap,
    images_per_piece,
    n_positions,
    patch_columns,
    row_values,
    side_by_side,
)

CurvatureKind = Literal["gradients", "inputs"]

AWAKE = 0.01
"""What a position without a gradient counts, as a share of one with a gradient. 0.003 leaves some
channels woken up that 0.01 does not; 0.1 made LeNet-300-100 lose a sixth more."""


@torch.no_grad()
def pieces(
    call: RecordedUse, gradients: list[Tensor], images: int, *, constant: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a few images at a time what a weight's gradients are made of.

    Args:
        call: one use of the weight by one batch.
        gradients: per sketch the gradient of its scalar in the outputs of the use.
        images: in the batch.
        constant: append a column that stands for what a bias is multiplied with: 1, or 0 where no
            bias belongs to a row.

    Yields:
        Patches ``(images, groups, columns, positions)`` and what they are multiplied with,
        ``(images, groups, sketches * rows, positions)``: ``g x'`` is the gradient in the weight by
        image and sketch. Float32. Of an embedding only the rows that the batch looks up, see
        :func:`rows_met`: no other has a gradient, and they may be a thousandth of all.
    """
    map_ = call.use.map
    if not map_.rows_are_inputs:
        ones = 1.0 if constant else None
        yield from _cut(map_, call.inputs, gradients, images, ones)
        return
    inputs = call.inputs
    if map_.lookup:
        met, places = torch.unique(inputs, return_inverse=True)
        map_, inputs = replace(map_, weight=map_.weight[met]), places.reshape(inputs.shape)
    for gradient in gradients:  # its rows are multiplied with gradients, which differ by sketch
        yield from _cut(map_, gradient, [inputs], images, 0.0 if constant else None)


def rows_met(call: RecordedUse) -> Tensor | None:
    """Return which rows :func:`pieces` yields of an embedding, in order; None: all of a weight."""
    return torch.unique(call.inputs) if call.use.map.lookup else None


def _cut(
    map_: LinearMap,
    inputs: Tensor,
    others: list[Tensor],
    images: int,
    constant: float | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    batch = inputs.shape[0]
    folded = 1 if batch % images else batch // images
    size = folded * images_per_piece(map_, folded * n_positions(map_, inputs))
    for start in range(0, batch, size):
        piece = slice(start, start + size)
        x = patch_columns(map_, inputs[piece], constant=constant)
        g = row_values(map_, [other[piece] for other in others])
        yield _of_images(x, folded), _of_images(g, folded)


def _of_images(values: Tensor, folded: int) -> Tensor:
    """Return the positions of an image's windows beside each other, where it has several."""
    if folded == 1:
        return values
    by_image = values.view(-1, folded, *values.shape[1:])
    return by_image.movedim(1, 3).flatten(3)


DECIDED = 0.05
"""Least energy of a row whose outputs have a gradient everywhere, in units of the mean of the rows;
where they have one in a part of the positions only, as much less. Behind a ReLU a row that hardly
matters has hardly a gradient, and may go. Before a softmax that is all but decided it has one, a
tiny one, until rounding decides otherwise: such rows of MiniLM's first queries and keys, taken for
nothing, were half of all that was lost. They cost these tensors 0.1 bits a weight. From 0.03 to 0.3
all is as good; 0.01 is not enough."""

RARE = 0.5
"""Least energy of an embedding's row, in units of the mean of all rows, those never met among them.
However many texts are seen, a word that is in none of them may be what another is about, and one
image more among thousands weighs nothing: with 2,000 sentences and that alone, MiniLM's table by
itself turned the embedding of the worst of 400 others to a cosine of 0.85. But a third of the bytes
are the table's, most of its words are in no text, and what they get the layers lack: with 2,000
sentences a mean cosine of 0.986 took 5.98 MB with 0.4 and 6.50 MB with 1.5, and at 5.6 MB it was
0.963 with 4, 0.976 with 1.5, 0.978 with 0.75. With 0.4 the worst of 400 sentences fell to 0.75."""

BLOCKS, LEAST_BLOCK = 8, 128
"""A symmetric matrix is summed in so many bands, none narrower: a band begins at the diagonal, so
that two eighths to four of the products are saved, and small matrices take one product."""

TINY = 1e-9
"""Less than one active position of the largest layer: where there is none, the constant is 0."""


def share_of_prior(prior: float, images: int) -> float:
    """Return the share that so many images more have of all, with at least one seen."""
    return prior / (images + prior)


class Sums:
    """Running sums of one weight tensor, or of a range of its rows.

    Attributes:
        weight: the tensor, or its range of rows.
        uses: how often it was used.
        rows: which of the tensor's rows.
        rows_are_inputs: whether a use looks rows up.
        biases: ``state_dict`` keys of what was added behind it; None: nothing.
        positions: patches seen.
        varied: whether rows see inputs of their own: those of several groups, and of embeddings.
        lookup: whether it is an embedding.
        inputs: ``(groups, columns)`` sum of the patches; this and the next two where it is varied.
        met: images in which a row was met, summed over rows and sketches.
        awake: ``(groups, rows)`` positions with a gradient.
        active: ``(groups,)`` patches with a gradient behind them, averaged over rows.
    """

    def __init__(self, map_: LinearMap, kind: CurvatureKind) -> None:
        self.weight = map_.weight.detach()
        self.kind = kind
        self.groups = map_.groups
        exact: dict[str, Any] = {"dtype": torch.float64, "device": self.weight.device}
        # The last column stands for a constant input: what a bias would be multiplied with.
        columns = map_.n_columns + 1
        self.gram = torch.zeros(self.groups, columns, columns, **exact)
        self.energy = torch.zeros(self.groups, map_.n_rows, **exact)
        self.inputs = torch.zeros(self.groups, map_.n_columns, **exact)
        self.met = 0.0
        self.active = torch.zeros(self.groups, **exact)
        self.awake = torch.zeros(self.groups, map_.n_rows, **exact)
        self.positions = 0
        self.uses = 0
        self.rows = range(0)
        self.rows_are_inputs = False
        self.varied = map_.groups > 1 or map_.rows_are_inputs
        self.lookup = map_.lookup
        self.biases: set[str | None] = set()

    @torch.no_grad()
    def add(self, call: RecordedUse, gradients: list[Tensor], images: int) -> None:
        """Add one use of the weight by one batch.

        Args:
            call: the use.
            gradients: per sketch the gradient of its scalar in the outputs of the use.
            images: in the batch.
        """
        map_ = call.use.map
        self.uses += 1
        self.rows = call.use.rows
        self.biases.add(call.use.bias)
        self.rows_are_inputs |= map_.rows_are_inputs
        met = rows_met(call)
        rows = slice(None) if met is None else met
        for x, g in pieces(call, gradients, images, constant=True):
            self._add_piece(x, g, rows)

    def _add_piece(self, x: Tensor, g: Tensor, met: slice | Tensor) -> None:
        """Add patches ``(batch, groups, columns, positions)`` and their output gradients.

        ``g`` is ``(batch, groups, sketches * rows, positions)``; its rows are those that were met.
        """
        batch, groups, columns, positions = x.shape
        n_rows = self.energy[:, met].shape[1]
        self.positions += batch * positions
        self._add_activity(x, g[:, :, :n_rows])
        if self.kind == "inputs":
            beside = side_by_side(x)
            add_upper(self.gram, beside, beside)
            self._add_energy(g.square().sum(3), met, n_rows)
            return
        through_rows = g.shape[2] * (positions + columns) * columns
        through_positions = positions * (2 * positions + columns) * columns
        if through_rows > through_positions + g.shape[2] * positions**2:
            # Without forming the gradients: X(g'g)X', all sketches at once.
            self._add_energy(((g @ (x.transpose(2, 3) @ x)) * g).sum(3), met, n_rows)
            weighted = x @ (g.transpose(2, 3) @ g)
            add_upper(self.gram, side_by_side(x), side_by_side(weighted))
            return
        sketches = max(1, PATCH_ELEMENTS // max(1, batch * groups * n_rows * columns))
        for some in torch.split(g, sketches * n_rows, 2):
            gradient = some @ x.transpose(2, 3)  # (batch, groups, sketches * rows, columns)
            self._add_energy(gradient.square().sum(3), met, n_rows)
            flat = gradient.transpose(0, 1).flatten(1, 2).transpose(1, 2)
            add_upper(self.gram, flat, flat)

    def _add_activity(self, x: Tensor, g: Tensor) -> None:
        """Add what positions without a gradient are known by, in one sketch: all have the same."""
        active = (g != 0).sum(3)  # (batch, groups, rows)
        if not self.lookup:
            self.awake += active.sum(0)
        if self.varied:
            self.inputs += x[:, :, :-1].sum(3).sum(0, dtype=torch.float64)
            self.active += active.sum((0, 2)) / self.energy.shape[1]

    def _add_energy(self, energy: Tensor, met: slice | Tensor, n_rows: int) -> None:
        """Add squares ``(batch, groups, sketches * rows)``; a row was met where there are any."""
        by_sketch = energy.view(*energy.shape[:2], -1, n_rows)
        self.energy[:, met] += by_sketch.sum((0, 2), dtype=torch.float64)
        if self.varied:
            self.met += float((energy > 0).sum())

    def finish(
        self, images: int, sketches: int, *, absorbing: bool, prior: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return averages, the absorber eliminated; made in place, as the sums may be gigabytes.

        Args:
            images: seen, at least 1.
            sketches: of each.
            absorbing: whether there is an absorber.
            prior: images more in which every row is like the average one, at least 0.

        Returns:
            ``(groups, columns, columns)``, ``(groups, rows)`` and ``(groups, columns)`` float64:
            gram, sensitivity and absorbed of a layer's curvature.
        """
        seen = images * sketches
        energy = self.energy / seen
        n = self.positions if self.kind == "inputs" else seen * energy.shape[1]  # mean over rows
        mirror(self.gram)
        gram = self.gram.div_(n)
        trace = gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)  # the mean of the energies
        if prior and not self.varied:
            everywhere = self.awake / self.awake.amax().clamp(min=1)
            energy = energy.maximum(DECIDED * energy.mean() * everywhere)
        weight = share_of_prior(prior, images)
        if weight and self.met:
            share = min(1.0, self.met / (seen * energy.numel()))
            of_gram = share if self.kind == "gradients" else 1.0
            self._add_unseen(gram, weight, weight / of_gram, absorbing=absorbing)
            mean = energy.mean()
            energy = (1 - weight) * energy + weight / share * mean
            trace = energy.mean(1, keepdim=True)
            if self.lookup:
                energy = energy.clamp(min=float(RARE * mean))
        mixed, constant = gram[:, :-1, -1], gram[:, -1:, -1]
        sensitivity = energy
        if self.kind == "gradients":
            sensitivity = energy / torch.where(trace > 0, trace, 1.0)
        gram, absorbed = gram[:, :-1, :-1], torch.zeros_like(mixed)
        if absorbing:
            absorbed = mixed / torch.where(constant > 0, constant, 1.0)
            for rows in bands(gram.shape[1]):
                gram[:, rows] -= mixed[:, rows].unsqueeze(2) * absorbed.unsqueeze(1)
        return gram, sensitivity, absorbed

    def _add_unseen(
        self, gram: Tensor, weight: float, of_average: float, *, absorbing: bool
    ) -> None:
        """Mix what was not seen into the averages, in place.

        Args:
            gram: ``(groups, columns + 1, columns + 1)``.
            weight: what the prior takes of them, from 0 to 1.
            of_average: how much of the average group it gives.
            absorbing: whether there is an absorber.
        """
        average = torch.zeros_like(gram[0])
        level = gram[:, -1, -1].mean()
        for group in gram:  # one at a time: bounded memory
            inner = group[:-1, :-1]
            if absorbing and group[-1, -1] > 0:
                inner = inner - torch.outer(group[:-1, -1], group[:-1, -1]) / group[-1, -1]
            average[:-1, :-1] += inner / len(gram)
        means = torch.cat([self.inputs / self.positions, self.inputs.new_ones(self.groups, 1)], 1)
        asleep = self.positions / self.active.clamp(min=TINY) - 1
        awake = AWAKE * asleep * gram[:, -1, -1]
        gram *= 1 - weight
        for group, mean, level_awake in zip(gram, means, awake, strict=True):
            group += of_average * average
            if absorbing:
                group += (of_average * level + level_awake) * torch.outer(mean, mean)


def add_upper(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add what lies on and above the diagonal of a symmetric product; below it, some of it.

    Args:
        total: ``(groups, columns, columns)`` float64.
        left: ``(groups, columns, any)`` float32.
        right: likewise; ``left right'`` is symmetric.
    """
    for band in bands(left.shape[1]):
        product = left[:, band] @ right[:, band.start :].transpose(1, 2)
        total[:, band, band.start :] += product.double()


def mirror(total: Tensor) -> None:
    """Complete the symmetric matrices that :func:`add_upper` has summed, in place."""
    for band in bands(total.shape[1]):
        corner = total[:, band, band].triu()
        total[:, band, band] = corner + corner.triu(1).transpose(1, 2)
        total[:, band.stop :, band] = total[:, band, band.stop :].transpose(1, 2)


def bands(columns: int) -> list[slice]:
    """Return the bands in which matrices of so many columns are summed."""
    size = max(LEAST_BLOCK, -(-columns // BLOCKS))
    starts = range(0, columns, size)
    return [slice(start, min(start + size, columns)) for start in starts]
