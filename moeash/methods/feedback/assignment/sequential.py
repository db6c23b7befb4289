"""Layers compressed one after the other, each aimed at what its float layer gives.

Feedback alone fits a layer to the inputs it has in the float network. In the compressed network it
has others: what the layers before it lost arrives there. So before a layer is assigned, its float
weights W move to W + D, such that what it gives for the inputs x^ that the compressed layers hand
it comes closest to what W gave for the float inputs x, over patches of calibration images::

    min over D, d of   sum |(W + D) x^ + d - W x|^2  +  damping |D|^2
    [D d] (G + damping) = W C       G = sum [x^ 1]'[x^ 1],   C = sum (x - x^)'[x^ 1]

The shift d goes into the layer's bias, or the running mean of the BatchNorm behind it; without
either there is none. Assignment itself stays what it is, with the curvature of the float network.

Both networks run once, and stand still in front of every layer until it has been assigned
(:mod:`moeash.tracing.stepwise`). With the least squares of every layer that is too dear for every
candidate of a search, and worth it for the solutions a search has ended with.

Source: GPTAQ (arXiv 2504.02692), asymmetric calibration. Differs: the shift of the inputs moves the
weights before feedback begins, by least squares, instead of entering each step of the recursion, as
the Gram matrix of the compressed inputs (where the shift is) and the curvature of the outputs
(where the error of rounding counts) are two matrices here.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from moeash.core.codebook import State
from moeash.data.inputs import Batch, call
from moeash.methods.feedback.assignment.columns import Factor
from moeash.methods.feedback.curvature.sums import add_upper, mirror
from moeash.networks.devices import device_of
from moeash.networks.writing.borrowing import Borrowed, TwoVersions
from moeash.tracing.patches import images_per_piece, n_positions, patch_columns, side_by_side
from moeash.tracing.stepwise import Stepwise
from moeash.tracing.uses import Use, watch_uses

DAMPING = 0.1
"""Of the least squares, relative to the mean diagonal of G, with patches without end: of .03, .1
and .3 the best on ResNet-20."""

NOISE = 40.0
"""How much more with few patches: so many times as much when there is one per column. Images have
one patch each for a linear layer: 500 of them made files of LeNet-300-100 larger without this."""


BATCH = 100
"""Images a pass: changes time and memory, and the last bits of sums."""


@dataclass(frozen=True, eq=False)
class Rehearsal:
    """What layers are compressed one after the other with.

    Attributes:
        network: runs with other weights in the meantime, and is as it was afterwards.
        images: ``(n, ...)`` calibration images.
        state: the float weights of the network; None: what it holds.
        batch_size: images a pass.
    """

    network: nn.Module
    images: Batch
    state: State | None = None
    batch_size: int = BATCH


class Lockstep:
    """The float network and the one being compressed, by turns in the memory of one.

    Args:
        rehearsal: network and images.
        values: tensors both networks begin with, by ``state_dict`` key, in place of the network's.
    """

    def __init__(self, rehearsal: Rehearsal, values: Mapping[str, Tensor]) -> None:
        images, size = rehearsal.images, rehearsal.batch_size
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        self._first = images[:1]
        self._values = values
        self._borrowed = Borrowed(rehearsal.network, rehearsal.state)
        self._versions = TwoVersions(self._borrowed)
        self._uses: Counter[str] = Counter()
        self._steps = Stepwise(self._versions, batches, self._uses)

    def __enter__(self) -> Self:
        self._borrowed.__enter__()
        try:
            self._borrowed.put(self._values)
            network = self._versions.be_first()

            def count(use: Use, inputs: Tensor, outputs: Tensor) -> None:
                self._uses[use.name] += 1

            with torch.no_grad(), watch_uses(network, count):
                call(network, self._first.to(device_of(network)))
        except BaseException:
            self._borrowed.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._steps.__exit__(*error)
        self._borrowed.__exit__(*error)

    def put(self, values: Mapping[str, Tensor]) -> None:
        """Give the compressed network the values of a layer that has been assigned."""
        self._versions.replace(values)

    @torch.no_grad()
    def aimed(self, factor: Factor) -> tuple[Factor, Tensor]:
        """Return a layer with moved weights, and the shift of its outputs.

        Args:
            factor: the next layer in the order of execution; all layers before it are assigned.

        Returns:
            The factor with other weights, and what to add to every output, ``(outputs,)`` float32:
            zeros without an absorber. A layer whose rows belong to inputs (transposed convolutions,
            embeddings), that is never active or that these images do not pass is returned as it is,
            and so is one whose least squares have no finite solution.
        """
        still = factor.weight.new_zeros(factor.weight.shape[:2]).flatten()
        sums: dict[int, _Sums] = {}
        for use, exact, given in self._steps.inputs(factor.name):
            if use.map.rows_are_inputs:
                return factor, still
            if use.first_row not in sums:
                sums[use.first_row] = _Sums(use, factor.absorber is not None)
            sums[use.first_row].add(use, exact, given)
        if not sums:
            return factor, still
        parts = [sums[row] for row in sorted(sums)]
        for part in parts:
            mirror(part.gram)
        gram = torch.cat([part.gram for part in parts])
        cross = torch.cat([part.cross for part in parts])
        columns = factor.weight.shape[2]
        mean = gram.diagonal(dim1=1, dim2=2)[:, :columns].mean(1)
        if not bool((mean > 0).all() & torch.isfinite(gram).all() & torch.isfinite(cross).all()):
            return factor, still
        damping = DAMPING * (1 + NOISE * columns / parts[0].patches)
        gram.diagonal(dim1=1, dim2=2)[:, :columns] += damping * mean.unsqueeze(1)
        right = factor.weight.double() @ cross
        solved, failed = torch.linalg.solve_ex(gram, right.transpose(1, 2))
        moved = solved.transpose(1, 2).float()
        if bool(failed.any()) or not bool(torch.isfinite(moved).all()):
            return factor, still
        if factor.absorber is not None:
            still = moved[:, :, columns].flatten()
        return replace(factor, weight=factor.weight + moved[:, :, :columns]), still


class _Sums:
    """G, of which its upper half, and C of the head of this module, per group, in float64."""

    def __init__(self, use: Use, with_shift: bool) -> None:
        self._with_shift = with_shift
        columns = use.map.n_columns
        exact: dict[str, Any] = {"dtype": torch.float64, "device": use.map.weight.device}
        width = columns + with_shift
        self.gram = torch.zeros(use.map.groups, width, width, **exact)
        self.cross = torch.zeros(use.map.groups, columns, width, **exact)
        self.patches = 0

    def add(self, use: Use, exact: Tensor, given: Tensor) -> None:
        """Add one use by one batch."""
        size = images_per_piece(use.map, n_positions(use.map, given))
        constant = 1.0 if self._with_shift else None
        for start in range(0, len(given), size):
            piece = slice(start, start + size)
            x = side_by_side(patch_columns(use.map, exact[piece]))
            y = side_by_side(patch_columns(use.map, given[piece], constant=constant))
            self.patches += y.shape[2]
            lost = x - y[:, : x.shape[1]]
            add_upper(self.gram, y, y)
            self.cross += (lost @ y.transpose(1, 2)).double()
