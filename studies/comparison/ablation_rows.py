"""The rows of the ablation: ways to assign weights to entries, each beside the one it is under."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from ablation_bench import BASE, Bench, Row
from torch import Tensor

from moeash.compression.remeasuring import Remeasuring
from moeash.core.codebook import SharedWeights
from moeash.core.merge import MergePass, merge_runs
from moeash.methods.feedback.assignment.columns import (
    PASSES,
    Factor,
    cheapest,
    code_lengths,
    zero_aligned_entries,
)
from moeash.methods.feedback.assignment.columns import nearest as nearest_entries
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import Compressed, compress, only_used
from moeash.methods.feedback.method import SEQUENTIAL
from moeash.methods.feedback.preparing import nearest_only
from moeash.methods.gpfq.layers import finite_alphabet, quantise_gpfq
from moeash.methods.recursion import Choose, recurse
from moeash.networks.writing.inplace import WeightWriter

COUPLED = replace(BASE, rows="coupled", common_order=True)

ROW_CLASSES = 8
"""Of rows of like magnitudes, equally many in each."""


def feedback(bench: Bench, row: Row, k: int) -> Compressed:
    """Assign with the method as it is, but for the row's arguments."""
    return compress(bench.prepared(row.settings), k, row.rate, **row.compress)


def nearest(bench: Bench, row: Row, k: int) -> Compressed:
    """Send every weight to its nearest entry of the same grid."""
    return compress(nearest_only(bench.module, bench.weights), k, 0.0)


def gpfq(bench: Bench, row: Row, k: int) -> Compressed:
    """Assign with GPFQ's greedy path, layer after layer, on the same grid."""
    entries = zero_aligned_entries(*nearest_only(bench.module, bench.weights).span, k)
    alphabet = finite_alphabet(entries.double())
    layers = quantise_gpfq(bench.module, bench.calibration, lambda weight: alphabet)
    return only_used(entries, {layer.name: layer.indices for layer in layers}, {})


def sequential(bench: Bench, row: Row, k: int) -> Compressed:
    """Compress layer after layer, each aimed at the outputs of its float layer."""
    rehearsal = bench.rehearsal(SEQUENTIAL)
    return compress(bench.prepared(row.settings), k, row.rate, rehearsal=rehearsal, **row.compress)


def unaligned(bench: Bench, row: Row, k: int) -> Compressed:
    """Assign on the centres of the paper's bins, none of them exactly 0."""
    prepared = bench.prepared(row.settings)
    low, high = prepared.span
    entries = low + (torch.arange(k, dtype=torch.float64) + 0.5) * ((high - low) / k)
    return compress(prepared, k, row.rate, entries=entries.float())


def scaled_per_layer(bench: Bench, row: Row, k: int) -> Compressed:
    """Price a bit in every layer by that layer alone, rows alike: no Fisher scale."""
    prepared = bench.prepared(row.settings)
    alike = [replace(f, sensitivity=torch.ones_like(f.sensitivity)) for f in prepared.factors]
    factors = [replace(f, sensitivity=f.sensitivity / f.curvature) for f in alike]
    return compress(replace(prepared, factors=tuple(factors)), k, row.rate)


def lengths_of_all(indices: Tensor, entries: Tensor) -> Tensor:
    """Return the code lengths of a whole layer: the method's own."""
    return code_lengths(indices, entries.numel())


def lengths_by_rows(indices: Tensor, entries: Tensor) -> Tensor:
    """Return the code lengths among rows of like magnitudes, ``(groups, rows, n_entries)``.

    The adaptive coder's contexts know the mean magnitude of a row.
    """
    magnitudes = entries[indices].abs().mean(2)
    ranks = magnitudes.flatten().argsort().argsort().reshape(magnitudes.shape)
    alike = ranks * ROW_CLASSES // magnitudes.numel()
    lengths = [code_lengths(indices[alike == one], entries.numel()) for one in range(ROW_CLASSES)]
    return torch.stack(lengths)[alike]


def few_entries(entries: Tensor, penalty: Tensor, variance: Tensor) -> Choose:
    """Return the rule that weighs the nearest entry, its neighbour towards 0, and 0."""
    zero = int(entries.abs().argmin())

    def weigh(t: int, target: Tensor) -> tuple[Tensor, Tensor]:
        near = nearest_entries(target, entries)
        open_ = torch.stack([near, near - (near - zero).sign(), torch.full_like(near, zero)], -1)
        cost = (target.unsqueeze(-1) - entries[open_]) ** 2
        cost += variance[:, t, None, None] * penalty.expand(*near.shape, -1).gather(-1, open_)
        indices = open_.gather(-1, cost.argmin(-1, keepdim=True)).squeeze(-1)
        return indices, entries[indices]

    return weigh


def varied(
    bench: Bench,
    row: Row,
    k: int,
    lengths: Callable[[Tensor, Tensor], Tensor] = lengths_of_all,
    rule: Callable[[Tensor, Tensor, Tensor], Choose] = cheapest,
) -> Compressed:
    """Assign with other code lengths, or with another choice of entries, than the method's."""

    def assign(factor: Factor, entries: Tensor, price: float) -> Tensor:
        place = factor.order.unsqueeze(1).expand_as(factor.weight)
        targets = factor.weight.gather(2, place)
        indices = nearest_entries(targets, entries)
        for _ in range(PASSES):
            penalty = price * lengths(indices, entries) / factor.sensitivity.unsqueeze(-1)
            choose = rule(entries, penalty, factor.variance)
            indices = recurse(targets, factor.coupling, choose, carry="error")
        return torch.empty_like(indices).scatter_(2, place, indices).reshape(factor.shape)

    return compress(bench.prepared(row.settings), k, row.rate, assign=assign)


def reestimated(
    bench: Bench, row: Row, k: int, assign: Callable[[Bench, Row, int], Compressed] = feedback
) -> SharedWeights:
    """Measure the BatchNorm statistics again, on the compressed network's calibration images."""
    module = copy.deepcopy(bench.module)
    network = replace(bench.network, module=module)
    again = Remeasuring(network, torch.cat(bench.calibration), "cpu")
    shared = bench.shared(assign(bench, row, k))
    return bench.stored(again.apply(WeightWriter(module, network.state), shared), row)


def merged_codebook(bench: Bench, row: Row, k: int) -> SharedWeights:
    """Return feedback with a third more bins, then the cheapest quarter of the pairs merged."""
    shared = bench.pack(feedback(bench, row, k + k // 3), row)
    merging = MergePass(shared.codebooks[0].entries, sum(t.counts for t in shared.shared))
    for _ in range(shared.n_entries // 4):
        merging.accept(merging.proposals()[0])
    return merge_runs(shared, merging.runs)


def reassigned(bench: Bench, row: Row, k: int) -> Compressed:
    """Assign with feedback again, on the entries the merges left."""
    entries = torch.tensor(merged_codebook(bench, row, k).codebooks[0].entries)
    return compress(bench.prepared(row.settings), k + k // 3, row.rate, entries=entries)


def row(
    name: str,
    under: str = "feedback",
    assign: Callable[[Bench, Row, int], Compressed | SharedWeights] = feedback,
    **changes: Any,
) -> Row:
    """Return a row that differs from feedback in what is given."""
    return Row(name, assign, under, **changes)


ROWS = (
    row("feedback"),
    row("another seed", settings=replace(BASE, seed=1)),
    row("nearest entries", assign=nearest),
    row("GPFQ's rule on the global codebook", assign=gpfq),
    row(
        "GPTQ: X'X, one scale, no rate",
        settings=replace(BASE, kind="inputs", absorb=False),
        rate=0.0,
    ),
    # the codebook
    row("grid not aligned to zero", assign=unaligned),
    row("nearest entry, the next to 0, and 0 only", assign=partial(varied, rule=few_entries)),
    row("a third more bins, a quarter merged", assign=merged_codebook),
    row("the same, assigned again", assign=reassigned),
    # the curvature
    row("X'X of the inputs", settings=replace(BASE, kind="inputs")),
    row("temperature 1", settings=replace(BASE, temperature=1.0)),
    row("temperature 16", settings=replace(BASE, temperature=16.0)),
    row("1 sketch an image", settings=replace(BASE, sketches=1)),
    row("4 sketches an image", settings=replace(BASE, sketches=4)),
    row("damping .003", settings=replace(BASE, damping=0.003)),
    row("damping .01", settings=replace(BASE, damping=0.01)),
    row("damping .1", settings=replace(BASE, damping=0.1)),
    row("natural column order", settings=replace(BASE, act_order=False)),
    # rows, scales and what takes up errors
    row("rows not balanced", settings=replace(BASE, balancing=Balancing(0.0))),
    row("rows balanced with 1/2", settings=replace(BASE, balancing=Balancing(0.5))),
    row(
        "no absorbers",
        "rows not balanced",
        settings=replace(BASE, absorb=False, balancing=Balancing(0.0)),
    ),
    row("BatchNorms measured again", assign=reestimated, norms_only=True),
    row(
        "nearest entries, BatchNorms measured again",
        "nearest entries",
        partial(reestimated, assign=nearest),
        norms_only=True,
    ),
    row("BatchNorms folded", folded=True, norms_only=True),
    row(
        "nearest entries, BatchNorms folded",
        "nearest entries",
        nearest,
        folded=True,
        norms_only=True,
    ),
    # the rate
    row("rate 0", rate=0.0),
    row("rate .05", rate=0.05),
    row("rate .05, one scale a layer", "rate .05", scaled_per_layer, rate=0.05),
    row("1 pass", compress={"passes": 1}),
    row("3 passes", compress={"passes": 3}),
    row(
        "lengths by rows alike, as the coder",
        "rate .05",
        partial(varied, lengths=lengths_by_rows),
        rate=0.05,
    ),
    # the file
    row("ANS tables", coder="ans"),
    row("Huffman", coder="huffman"),
    row("kept floats as float32", kept="float32"),
    row("BatchNorms as four vectors", two_vectors=False, norms_only=True),
    # what is added to the base: the first two by default, the last on request
    row("rows coupled", settings=COUPLED),
    row("layer after layer", assign=sequential),
    row("a trellis of 4 states", compress={"trellis": 4}),
    row("a trellis of 8 states", compress={"trellis": 8}),
    row("rows coupled, layer after layer", assign=sequential, settings=COUPLED),
    row("rows coupled, a trellis of 8", settings=COUPLED, compress={"trellis": 8}),
    row("all three", assign=sequential, settings=COUPLED, compress={"trellis": 8}),
)
