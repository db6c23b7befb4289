"""What each part of the feedback method is worth: whole files at an equal KL divergence.

    python studies/comparison/ablation.py studies/cifar10-resnet20-feedback.toml
    python studies/comparison/ablation.py studies/mnist-lenet300-feedback.toml

Every row of ROWS differs in one thing from the row it is under. It is compressed at several k; each
point is the bytes of the whole file and KL(float || compressed) of the outputs on search images, in
nats an image. A row's number is its bytes at one KL, the same for all rows of a network. Nothing
is searched, no label is read.

Writes ``ablation.json`` and the tables of README.md.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from equal_cost import size_at
from measure import divergence
from tables import put_table
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from moeash.codec.size import size
from moeash.compression.folding import IMAGES, fold_norms
from moeash.compression.remeasuring import Remeasuring
from moeash.core.codebook import SharedWeights
from moeash.core.kept import Keeping, KeptPrecision
from moeash.core.merge import MergePass, merge_runs
from moeash.methods.feedback.balancing import Balancing
from moeash.methods.feedback.columns import (
    PASSES,
    Factor,
    cheapest,
    code_lengths,
    zero_aligned_entries,
)
from moeash.methods.feedback.columns import nearest as nearest_entries
from moeash.methods.feedback.compressing import Compressed, compress, only_used
from moeash.methods.feedback.method import SEQUENTIAL, shared_weights
from moeash.methods.feedback.preparing import PreparedLayers, Settings, nearest_only, prepare
from moeash.methods.feedback.sequential import Rehearsal
from moeash.methods.gpfq.layers import finite_alphabet, quantise_gpfq
from moeash.methods.recursion import Choose, recurse
from moeash.networks.inplace import WeightWriter, load_into
from moeash.networks.norms import find_norms
from moeash.study.spec import load_spec

RESULT = Path(__file__).with_name("ablation.json")

BASE = Settings(sketches=2, damping=0.03, rows="independent")
"""How every row prepares but for what it changes: half the method's sketches for the time they
take, and each row of a weight by itself: coupling them is one of the things that are added to this
base."""

COUPLED = replace(BASE, rows="coupled", common_order=True)


@dataclass(frozen=True)
class Scale:
    """How a network is compared.

    Attributes:
        k: every row tries it first; the rules of assignment are compared at it.
        kl: at which bytes are compared, in nats an image.
        calibration: images.
        measured: search images the KL is the mean of.
    """

    k: int
    kl: float
    calibration: int
    measured: int


SCALES = {
    "resnet20": Scale(k=57, kl=0.03, calibration=1000, measured=2000),
    "lenet300": Scale(k=33, kl=0.004, calibration=5000, measured=5000),
}

RATIO = 1.15
"""Of one k to the next."""

ROW_CLASSES = 8
"""Of rows of like magnitudes, equally many in each."""

MOST_STEPS = 12
"""From the common k: a row that does not reach the KL by then is extrapolated."""

BEYOND = 2
"""Values of k tried on either side of the KL at which rows are compared."""


class Bench:
    """A network, its calibration images, and what it answers on the KL images."""

    def __init__(self, spec: Path) -> None:
        """Load everything once."""
        task = load_spec(spec).task()
        assert task.data is not None and isinstance(task.network.source, str)
        self.name, self._notes = task.network.source, task.notes
        self.scale = SCALES[self.name]
        splits = task.data.load()
        self.network = task.network.load()
        self.module = self.network.module.eval()
        self.calibration = self._images(splits["calibration"], self.scale.calibration, 100)
        self._images_kl = self._images(splits["search"], self.scale.measured, 250)
        self._exact = self._outputs(self.module)
        self.weights = [p.name for p in self.network.state if p.role == "shared"]
        self.prepared = lru_cache(self._prepared)

    @cached_property
    def with_norms_folded(self) -> "Bench":
        """The same bench with BatchNorms folded into the layers before them."""
        other = copy.copy(self)
        twin = replace(self.network, module=copy.deepcopy(self.module))
        other.network = fold_norms(twin, self.calibration[0][:IMAGES]).network
        other.module = other.network.module
        other.prepared = lru_cache(other._prepared)
        return other

    @staticmethod
    def _images(split: Any, count: int, batch: int) -> list[Tensor]:
        # Splits may be sorted by class: neither the images nor a batch may be of a few classes.
        order = np.random.default_rng(0).permutation(len(split))[:count]
        return [x.clone() for x, _ in split.batches(batch, order=order)]

    def _outputs(self, module: nn.Module) -> Tensor:
        with torch.inference_mode():
            return torch.cat([module(x) for x in self._images_kl])

    def _prepared(self, settings: Settings) -> PreparedLayers:
        return prepare(
            self.module,
            self.calibration,
            settings,
            shared=self.weights,
            unscaled=self.network.folded,
        )

    def rehearsal(self, count: int) -> Rehearsal:
        """Return what layers are compressed one after the other with."""
        return Rehearsal(self.module, torch.cat(self.calibration)[:count])

    def pack(self, result: Compressed, row: "Row") -> SharedWeights:
        """Return what goes into the file."""
        return self.stored(self.shared(result), row)

    def shared(self, result: Compressed) -> SharedWeights:
        """Return a candidate with its kept tensors in the network's precision."""
        return shared_weights(self.network.state, result)

    def stored(self, shared: SharedWeights, row: "Row") -> SharedWeights:
        """Return a candidate with its kept tensors as the file stores them."""
        norms = find_norms(self.module, self.network.state) if row.two_vectors else ()
        return Keeping(row.kept, norms).apply(shared)

    def twin(self, shared: SharedWeights) -> nn.Module:
        """Return the network with the weights a file decodes to."""
        module = copy.deepcopy(self.module)
        load_into(module, shared.decoded())
        return module

    def measure(self, shared: SharedWeights, coder: str) -> dict[str, float]:
        """Return the bytes of the file and the KL of what it decodes to."""
        return {
            "size_bytes": size(shared, coder=coder, notes=self._notes).total,
            "kl": divergence(self._exact, self._outputs(self.twin(shared))),
            "entries": shared.n_entries,
        }


# ------------------------------------------------------------------ ways to assign


def feedback(bench: Bench, row: "Row", k: int) -> Compressed:
    """Assign with the method as it is, but for the row's arguments."""
    return compress(bench.prepared(row.settings), k, row.rate, **row.compress)


def nearest(bench: Bench, row: "Row", k: int) -> Compressed:
    """Send every weight to its nearest entry of the same grid."""
    return compress(nearest_only(bench.module, bench.weights), k, 0.0)


def gpfq(bench: Bench, row: "Row", k: int) -> Compressed:
    """Assign with GPFQ's greedy path, layer after layer, on the same grid."""
    entries = zero_aligned_entries(*nearest_only(bench.module, bench.weights).span, k)
    alphabet = finite_alphabet(entries.double())
    layers = quantise_gpfq(bench.module, bench.calibration, lambda weight: alphabet)
    return only_used(entries, {layer.name: layer.indices for layer in layers}, {})


def sequential(bench: Bench, row: "Row", k: int) -> Compressed:
    """Compress layer after layer, each aimed at the outputs of its float layer."""
    rehearsal = bench.rehearsal(SEQUENTIAL)
    return compress(bench.prepared(row.settings), k, row.rate, rehearsal=rehearsal, **row.compress)


def unaligned(bench: Bench, row: "Row", k: int) -> Compressed:
    """Assign on the centres of the paper's bins, none of them exactly 0."""
    prepared = bench.prepared(row.settings)
    low, high = prepared.span
    entries = low + (torch.arange(k, dtype=torch.float64) + 0.5) * ((high - low) / k)
    return compress(prepared, k, row.rate, entries=entries.float())


def scaled_per_layer(bench: Bench, row: "Row", k: int) -> Compressed:
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
    row: "Row",
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
    bench: Bench, row: "Row", k: int, assign: Callable[[Bench, "Row", int], Compressed] = feedback
) -> SharedWeights:
    """Measure the BatchNorm statistics again, on the compressed network's calibration images."""
    module = copy.deepcopy(bench.module)
    network = replace(bench.network, module=module)
    again = Remeasuring(network, torch.cat(bench.calibration), "cpu")
    shared = bench.shared(assign(bench, row, k))
    return bench.stored(again.apply(WeightWriter(module, network.state), shared), row)


def merged_codebook(bench: Bench, row: "Row", k: int) -> SharedWeights:
    """Return feedback with a third more bins, then the cheapest quarter of the pairs merged."""
    shared = bench.pack(feedback(bench, row, k + k // 3), row)
    merging = MergePass(shared.codebooks[0].entries, sum(t.counts for t in shared.shared))
    for _ in range(shared.n_entries // 4):
        merging.accept(merging.proposals()[0])
    return merge_runs(shared, merging.runs)


def reassigned(bench: Bench, row: "Row", k: int) -> Compressed:
    """Assign with feedback again, on the entries the merges left."""
    entries = torch.tensor(merged_codebook(bench, row, k).codebooks[0].entries)
    return compress(bench.prepared(row.settings), k + k // 3, row.rate, entries=entries)


# ------------------------------------------------------------------ the rows


@dataclass(frozen=True)
class Row:
    """One way to compress.

    Attributes:
        name: in the table.
        under: the row it is compared with, by name.
        assign: makes a candidate.
        settings: how the network is measured and factorised.
        compress: arguments of :func:`moeash.methods.feedback.compressing.compress` that differ.
        rate: what a bit is worth.
        coder: of the file.
        kept: precision of kept floats.
        two_vectors: keep BatchNorms as the scale and shift they come down to.
        folded: fold BatchNorms into the layers before them first.
        norms_only: only for networks with BatchNorms.
    """

    name: str
    under: str = "feedback"
    assign: Callable[[Bench, "Row", int], Compressed | SharedWeights] = feedback
    settings: Settings = BASE
    compress: Mapping[str, Any] = field(default_factory=dict)
    rate: float = 0.02
    coder: str = "adaptive"
    kept: KeptPrecision = "float16"
    two_vectors: bool = True
    folded: bool = False
    norms_only: bool = False


ROWS = (
    Row("feedback"),
    Row("another seed", settings=replace(BASE, seed=1)),
    Row("nearest entries", assign=nearest),
    Row("GPFQ's rule on the global codebook", assign=gpfq),
    Row(
        "GPTQ: X'X, one scale, no rate",
        settings=replace(BASE, kind="inputs", absorb=False),
        rate=0.0,
    ),
    # the codebook
    Row("grid not aligned to zero", assign=unaligned),
    Row("nearest entry, the next to 0, and 0 only", assign=partial(varied, rule=few_entries)),
    Row("a third more bins, a quarter merged", assign=merged_codebook),
    Row("the same, assigned again", assign=reassigned),
    # the curvature
    Row("X'X of the inputs", settings=replace(BASE, kind="inputs")),
    Row("temperature 1", settings=replace(BASE, temperature=1.0)),
    Row("temperature 16", settings=replace(BASE, temperature=16.0)),
    Row("1 sketch an image", settings=replace(BASE, sketches=1)),
    Row("4 sketches an image", settings=replace(BASE, sketches=4)),
    Row("damping .003", settings=replace(BASE, damping=0.003)),
    Row("damping .01", settings=replace(BASE, damping=0.01)),
    Row("damping .1", settings=replace(BASE, damping=0.1)),
    Row("natural column order", settings=replace(BASE, act_order=False)),
    # rows, scales and what takes up errors
    Row("rows not balanced", settings=replace(BASE, balancing=Balancing(0.0))),
    Row("rows balanced with 1/2", settings=replace(BASE, balancing=Balancing(0.5))),
    Row(
        "no absorbers",
        "rows not balanced",
        settings=replace(BASE, absorb=False, balancing=Balancing(0.0)),
    ),
    Row("BatchNorms measured again", assign=reestimated, norms_only=True),
    Row(
        "nearest entries, BatchNorms measured again",
        "nearest entries",
        partial(reestimated, assign=nearest),
        norms_only=True,
    ),
    Row("BatchNorms folded", folded=True, norms_only=True),
    Row(
        "nearest entries, BatchNorms folded",
        "nearest entries",
        nearest,
        folded=True,
        norms_only=True,
    ),
    # the rate
    Row("rate 0", rate=0.0),
    Row("rate .05", rate=0.05),
    Row("rate .05, one scale a layer", "rate .05", scaled_per_layer, rate=0.05),
    Row("1 pass", compress={"passes": 1}),
    Row("3 passes", compress={"passes": 3}),
    Row(
        "lengths by rows alike, as the coder",
        "rate .05",
        partial(varied, lengths=lengths_by_rows),
        rate=0.05,
    ),
    # the file
    Row("ANS tables", coder="ans"),
    Row("Huffman", coder="huffman"),
    Row("kept floats as float32", kept="float32"),
    Row("BatchNorms as four vectors", two_vectors=False, norms_only=True),
    # what is added to the base: the first two by default, the last on request
    Row("rows coupled", settings=COUPLED),
    Row("layer after layer", assign=sequential),
    Row("a trellis of 4 states", compress={"trellis": 4}),
    Row("a trellis of 8 states", compress={"trellis": 8}),
    Row("rows coupled, layer after layer", assign=sequential, settings=COUPLED),
    Row("rows coupled, a trellis of 8", settings=COUPLED, compress={"trellis": 8}),
    Row("all three", assign=sequential, settings=COUPLED, compress={"trellis": 8}),
)


RULES = tuple(row.name for row in ROWS[:5])
"""Rows that differ in how weights are assigned; all of them try one k."""


def run(bench: Bench, row: Row) -> list[dict[str, float]]:
    """Return a row's points, smallest k first: some on either side of the KL, and the common k."""
    points: dict[int, dict[str, float]] = {}
    bench = bench.with_norms_folded if row.folded else bench

    def above(i: int) -> bool:
        k = round(bench.scale.k * RATIO**i)
        made = row.assign(bench, row, k)
        shared = made if isinstance(made, SharedWeights) else bench.pack(made, row)
        points[i] = {"k": k} | bench.measure(shared, row.coder)
        return points[i]["kl"] > bench.scale.kl

    at, step = 0, 1 if above(0) else -1
    while abs(at) < MOST_STEPS and above(at + step) == (step > 0):
        at += step
    # The KL lies between two neighbours now: the line goes through some points beyond them, too.
    for i in (at - step * (BEYOND - 1), at + step * BEYOND):
        if i not in points:
            above(i)
    return [points[i] for i in sorted(points)]


def table(name: str, rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Return the table of a network as Markdown."""
    cost = SCALES[name].kl
    sizes = {}
    for row, points in rows.items():
        pairs = [(p["size_bytes"], p["kl"]) for p in points]
        near = [(size, kl) for size, kl in pairs if 0.5 < kl / cost < 2]
        sizes[row] = size_at(near if len(near) > 2 else pairs, cost)
    under = {row.name: row.under for row in ROWS}
    lines = [f"| {name} | bytes at KL {cost} | against | |", "|---|---|---|---|"]
    for row in rows:
        n_bytes, inside = sizes[row]
        reference = next((r for r in (under[row], "feedback") if r in sizes), row)
        change = "" if row == reference else f"{n_bytes / sizes[reference][0] - 1:+.1%}"
        against = "" if row == reference else reference
        mark = "" if inside else " (extrapolated)"
        lines.append(f"| {row} | {n_bytes:,.0f}{mark} | {against} | {change} |")
    return "\n".join(lines)


def table_at(k: int, rows: Mapping[str, list[dict[str, float]]]) -> str:
    """Return the Markdown table of the rules of assignment at one k."""
    lines = [f"| k = {k} | bytes | entries | KL |", "|---|---|---|---|"]
    for row in ROWS:
        if row.name in RULES:
            for point in rows.get(row.name, []):
                if point["k"] == k:
                    values = f"{point['size_bytes']:,} | {point['entries']} | {point['kl']:.4f}"
                    lines.append(f"| {row.name} | {values} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows of one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, help="of a study with the feedback method")
    parser.add_argument("--only", nargs="*", help="rows to run anew; the others stay as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.spec)
    has_norms = any(isinstance(module, _BatchNorm) for module in bench.module.modules())
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    only = arguments.only
    known = {} if only is None else result.get(bench.name, {})
    for row in ROWS:
        if (only is not None and row.name not in only) or (row.norms_only and not has_norms):
            continue
        started = time.perf_counter()
        known[row.name] = run(bench, row)
        shown = ", ".join(f"{p['size_bytes']:,} {p['kl']:.4f}" for p in known[row.name])
        print(f"{row.name}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
        # Written after every row: an hour of other people's load must not cost what is done.
        result[bench.name] = {row.name: known[row.name] for row in ROWS if row.name in known}
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    rows = result[bench.name]
    tables = (table_at(bench.scale.k, rows), table(bench.name, rows))
    put_table(f"ablation {bench.name}", "\n\n".join(tables))


if __name__ == "__main__":
    main()
