"""What the quadratic model says: of a file's divergence in advance, and of the least bytes for it.

    python studies/comparison/bound.py studies/mnist-lenet300-feedback.toml
    python studies/comparison/bound.py studies/imagenet-efficientnet-lite0.toml

The loss of a network moves by about ``1/2 sum_r s_r E_r H E_r'`` when its weights move by E. H and
s are measured here at temperature 1, where that loss is KL(float || compressed), on the images on
which the KL itself is measured afterwards. Files are made as ``feedback`` makes them from
calibration images, each row by itself as the model has it, over the range of k that is found.

**Bound.** In the basis of H's eigenvectors (those of one half of the images, with the curvature
lambda_i that the other half has along them) a row of variance ``v`` is a row of Gaussians of that
variance, whose errors cost ``s lambda_i / 2`` each. Reverse water-filling (Cover and Thomas,
Elements of Information Theory, 10.3.3) gives the fewest bits for a cost: with ``c_i = v s lambda_i
/ 2``, the cost is ``sum min(t, c_i)`` and the bits are ``sum max(0, log2(c_i / t) / 2)``. Weights
have heavier tails than Gaussians, and an adaptive coder knows more than the variance of a row, so a
file may lie below it; it says what is left to gain by assigning better, not what is possible.

**Scalar.** The same with what a uniform quantiser with an entropy coder takes for each Gaussian: up
to a quarter of a bit more, which only trellises and lattices save.

The decoder of the bound knows H, which no file tells it. That costs nothing where all directions
are coded, and where few are, as on MNIST, the bound is far from what a file can reach.

Rows count their second moment as variance. Kept tensors, codebook and header are as they are in
each file, and are added to both. Writes ``bound.json``, ``bound.png`` and a table of README.md.
"""

import argparse
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from equal_cost import between
from measure import divergence, images_of
from numpy.typing import NDArray
from rows import read_rows
from tables import put_table
from torch import Tensor

from moeash.codec.size import size
from moeash.core.kept import Keeping
from moeash.data.splits import load_splits
from moeash.methods.feedback.balancing.scales import Balancing, balanced_values
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.curvature.measuring import LayerCurvature, measure_curvature
from moeash.methods.feedback.method import shared_weights
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.networks.loading.sources import read_network
from moeash.networks.norms import find_norms
from moeash.networks.writing.borrowing import Borrowed
from moeash.networks.writing.inplace import load_into
from moeash.study.spec.reading import load_spec
from moeash.tracing.patches import rows_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULT = Path(__file__).with_name("bound.json")
PICTURE = Path(__file__).with_name("bound.png")

SETTINGS = Settings(rows="independent", sketches=2, damping=0.1, balancing=Balancing(finest=None))
RATE = 0.05
POINTS = 6
"""Values of k, from the coarsest to the finest that is found useful."""

MOST_IMAGES = 2000
"""On which the KL and the model's curvature are measured, and with which layers are prepared."""

AT = {"lenet300": (0.02,), "lenet5": (0.02,), "resnet20": (0.03, 0.005)}
"""KLs at which the table compares, in nats an image."""

OTHERS_AT = (0.05, 0.01)
"""The same of networks that AT does not name."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sources:
    """What is coded: Gaussians, with what each costs when it is left out.

    Attributes:
        costs: ``(n,)`` nats: variance times half the curvature, over every layer.
        n: of all, those of no cost included.
    """

    costs: Floats
    n: int

    def bits(self, cost: float) -> tuple[float, float]:
        """Return the fewest bits for a cost in nats, and what scalar quantisers take for it."""
        low, high = 0.0, float(self.costs.max())
        for _ in range(200):
            level = (low + high) / 2
            low, high = (
                (level, high) if np.minimum(self.costs, level).sum() < cost else (low, level)
            )
        coded = self.costs[self.costs > level] / level
        shannon = np.log2(coded) / 2
        return float(shannon.sum()), float((shannon + _lost_by_scalars(1 / coded)).sum())


def _lost_by_scalars(distortions: Floats) -> Floats:
    """Return the bits a uniform quantiser takes beyond Shannon's, by distortion over variance."""
    x = np.linspace(-12, 12, 240_001)
    density = np.exp(-x * x / 2)
    density /= density.sum()
    table = []
    for step in np.geomspace(0.02, 8, 120):
        cells = np.rint(x / step).astype(int)
        cells -= cells.min()
        share = np.bincount(cells, density)
        centre = np.bincount(cells, density * x) / np.maximum(share, 1e-300)
        kept = share[share > 0]
        entropy = -(kept * np.log2(kept)).sum()
        distortion = 1 - (share * centre**2).sum()
        table.append((distortion, entropy + np.log2(max(distortion, 1e-300)) / 2))
    known, lost = np.array(sorted(table)).T
    return np.interp(distortions, known, lost)


class Model:
    """The quadratic model of a network at temperature 1, measured on two halves of some images."""

    def __init__(self, halves: Sequence[Sequence[LayerCurvature]], names: Collection[str]) -> None:
        self._pairs = [
            (one, other) for one, other in zip(*halves, strict=True) if one.name in names
        ]

    def cost(self, values: Mapping[str, Tensor]) -> float:
        """Return the nats an image of other values of the weights, by ``state_dict`` key."""
        total = 0.0
        for pair in self._pairs:
            for half in pair:
                error = rows_of(values[half.name], len(half.gram)).double() - half.weight.double()
                by_row = ((error @ half.gram) * error).sum(2)
                total += float((half.sensitivity * by_row).sum()) / 2 / len(pair)
        return total

    def sources(self) -> Sources:
        """Return the Gaussians that its weights are: directions of a half, seen by the other.

        A half sees no more directions of a layer than it has images, and what it sees of them is
        partly chance. Along directions of the other half its curvature is right on average.
        """
        costs = []
        for one, other in self._pairs:
            directions = torch.linalg.eigh(one.gram).eigenvectors
            seen = (directions * (other.gram @ directions)).sum(1).clamp(min=0)
            variances = other.weight.double().square().mean(2) * other.sensitivity / 2
            costs.append((variances.unsqueeze(2) * seen.unsqueeze(1)).flatten().numpy())
        every = np.concatenate(costs)
        return Sources(every[every > 0], every.size)


def points_of(spec: Path) -> tuple[str, dict[str, Any]]:
    """Return a network's name and what was seen of it."""
    task = load_spec(spec).task()
    assert task.data is not None
    network, splits = read_network(task.network), load_splits(task.data)
    module = network.module.eval()
    batch = 50 if splits["search"].image_shape[-1] > 64 else 250
    seen = images_of(splits["search"], MOST_IMAGES, batch)
    shared = [p.name for p in network.state if p.role == "shared"]
    prepared = prepare(
        module, images_of(splits["calibration"], MOST_IMAGES, batch), SETTINGS, shared=shared
    )
    with torch.inference_mode():
        exact = torch.cat([module(x) for x in seen])
    floats = balanced_values(prepared.factors, prepared.kept)
    with Borrowed(module) as borrowed:
        borrowed.put(floats)
        halves = [
            measure_curvature(module, half, temperature=1.0, sketches=2, seed=7).layers
            for half in (seen[::2], seen[1::2])
        ]
    model = Model(halves, shared)
    sources = model.sources()
    keeping = Keeping("float16", find_norms(module, network.state))
    assert prepared.bins is not None
    points = []
    for k in np.geomspace(*prepared.bins, POINTS).round().astype(int).tolist():
        made = compress(prepared, k, RATE)
        stored = keeping.apply(shared_weights(network.state, made))
        report = size(stored, coder="adaptive", notes=task.notes)
        with Borrowed(module), torch.inference_mode():
            load_into(module, stored.decoded())
            kl = divergence(exact, torch.cat([module(x) for x in seen]))
        predicted = model.cost(made.values)
        least, scalar = sources.bits(predicted)
        points.append(
            {
                "k": k,
                "size_bytes": report.total,
                "index_bytes": report.indices + report.tables,
                "kl": kl,
                "predicted": predicted,
                "least_bytes": report.total - report.indices - report.tables + least / 8,
                "scalar_bytes": report.total - report.indices - report.tables + scalar / 8,
            }
        )
        print(json.dumps(points[-1]), flush=True)
    return spec.stem, {"network": task.network.source, "weights": sources.n, "points": points}


def table(results: Mapping[str, Mapping[str, Any]], nncodec: Mapping[str, Sequence[Any]]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| study | at KL | bits a weight | file | scalar | bound | file / bound | file, scalar, "
        "bound over NNCodec |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for study, seen in results.items():
        source, points = seen["network"], seen["points"]
        for kl in AT.get(source, OTHERS_AT):
            keys = ("size_bytes", "scalar_bytes", "least_bytes", "index_bytes")
            *sizes, indices = (between([(p[key], p["kl"]) for p in points], kl) for key in keys)
            peer = between(nncodec[source], kl) if source in nncodec else None
            over = "" if peer is None else ", ".join(f"{n_bytes / peer:.2f}" for n_bytes in sizes)
            cells = [f"`{study}`", f"{kl:g}", f"{8 * indices / seen['weights']:.2f}"]
            cells += [f"{n_bytes:,.0f}" for n_bytes in sizes]
            lines.append(f"| {' | '.join([*cells, f'{sizes[0] / sizes[2]:.2f}', over])} |")
    return "\n".join(lines)


def plot(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Draw predicted against measured divergence."""
    figure, axes = plt.subplots(figsize=(5.2, 4.6), layout="constrained")
    for (study, seen), marker in zip(results.items(), "osD^vP*X", strict=False):
        x, y = ([p[key] for p in seen["points"]] for key in ("predicted", "kl"))
        axes.plot(x, y, marker=marker, label=study)
    every = [p[key] for s in results.values() for p in s["points"] for key in ("predicted", "kl")]
    ends = [min(every), max(every)]
    axes.plot(ends, ends, color="0.6", linestyle=":", label="equal")
    axes.set(xscale="log", yscale="log", xlabel="KL predicted, nats", ylabel="KL measured, nats")
    axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=120, metadata={"Software": None})
    plt.close(figure)


def nncodec_points() -> dict[str, list[tuple[float, float]]]:
    """Return NNCodec's bytes and holdout KL by network, as the comparison measured them."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in read_rows():
        if row["peer"] == "NNCodec" and row.get("holdout_kl"):
            found.setdefault(row["network"], []).append((row["size_bytes"], row["holdout_kl"]))
    return found


def main() -> None:
    """Measure networks, and write what all that were measured show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", type=Path, nargs="*", help="of studies with the feedback method")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for spec in arguments.specs:
        start = time.monotonic()
        name, seen = points_of(spec)
        results[name] = seen
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
    put_table("bound", table(results, nncodec_points()))
    plot(results)


if __name__ == "__main__":
    main()
