"""What each part of distilling is worth: whole files at an equal KL divergence.

    python studies/comparison/distilling.py studies/mnist-lenet300-distilled.toml

Every row trains one solution of ``feedback`` for the same number of epochs, at each of RATES; each
point is the bytes of the whole file and KL(float || compressed) of the outputs on search images, in
nats an image. A row's number is its bytes at one KL, the same for all rows. No label is read but by
the row that says so.

Writes ``distilling.json`` and a table of README.md.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from ablation_bench import Bench, Row
from ablation_rows import feedback, nearest
from distilling_rows import (
    AnnealedInTheFirstHalf,
    Averaged,
    ByRows,
    Constant,
    Freezing,
    KeptAsTheyAre,
    RoundedThroughout,
)
from equal_cost import size_at
from tables import put_table

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.recipe import Augmentation, Distill, Tune
from moeash.data.splits import Split, load_splits
from moeash.methods.training.distilling import Distilling
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.tuning import tune
from moeash.study.spec.reading import load_spec

RESULT = Path(__file__).with_name("distilling.json")

EPOCHS = 6
TUNED_EPOCHS = 3
RATES = (1.0, 3.0)
"""What a bit a weight is worth; each row is trained at both, but for those whose loss is larger or
smaller, or whose solution is: their points would lie elsewhere."""

K = 24
"""Bins of the solution that is trained."""

NEXT_K = 30
"""Of its neighbour on the front, the next larger one."""

NEAREST_K = 60
"""Of nearest entries, whose files would take the same bytes at a far greater distance."""

KL = 0.015
"""At which bytes are compared."""

UNTRAINED = (14, 18, 24, 30)
"""Values of k of solutions that are not trained."""

BASE = "entries from the first step on"
"""Every other row differs from this one in one thing."""

PLAIN = Distill(EPOCHS, temperature=4.0)

Begin = Callable[[Bench], SharedWeights]


@dataclass(frozen=True)
class Training:
    """One way to distill.

    Attributes:
        name: in the table.
        kind: of training.
        step: how, but for epochs and rate.
        labels: weight of the labels.
        augment: how images are varied.
        begin: makes the solution that is trained.
        rates: what a bit is worth.
        tuned: whether entries are tuned afterwards.
    """

    name: str
    kind: type[Distilling] = RoundedThroughout
    step: Distill = PLAIN
    labels: float = 0.0
    augment: tuple[Augmentation, ...] = ()
    begin: Begin = lambda bench: start(bench, K)
    rates: tuple[float, ...] = RATES
    tuned: bool = False


def start(bench: Bench, k: int) -> SharedWeights:
    """Return a solution of ``feedback``."""
    row = Row("feedback", feedback)
    return bench.shared(feedback(bench, row, k))


def nearest_start(bench: Bench) -> SharedWeights:
    """Return a solution whose weights are at their nearest entries."""
    row = Row("nearest entries", nearest)
    return bench.shared(nearest(bench, row, NEAREST_K))


ROWS = (
    Training(BASE),
    Training("rounding annealed, as moeash does it", Distilling),
    Training("rounding annealed, half of the images mixed", Distilling, augment=("mixing",)),
    *(
        Training(
            f"temperature {temperature:g}",
            step=replace(PLAIN, temperature=temperature),
            rates=rates,
        )
        for temperature, rates in ((1.0, (0.1, 0.4)), (2.0, (0.4, 1.2)), (8.0, (2.0, 6.0)))
    ),
    *(
        Training(f"{rate:g} entries a step at first", step=replace(PLAIN, learning_rate=rate))
        for rate in (0.005, 0.01, 0.04)
    ),
    Training("a constant learning rate", Constant),
    Training("half the loss from labels", labels=0.5),
    Training("kept parameters as they are", KeptAsTheyAre),
    Training("positions averaged over the last steps", Averaged),
    Training("rounding annealed in the first half", AnnealedInTheFirstHalf),
    Training("weights frozen one after the other", Freezing),
    Training("statistics of every row", ByRows),
    Training("from nearest entries", begin=nearest_start),
    Training(
        "from the next larger solution", begin=lambda bench: start(bench, NEXT_K), rates=(3.0, 8.0)
    ),
    Training("entries tuned afterwards", tuned=True),
)


def trained(
    bench: Bench, images: Split, row: Training, rate: float, seed: int = 0
) -> SharedWeights:
    """Return the solution of a row at a rate."""
    options = TrainingOptions(labels=row.labels, augment=row.augment)
    session = Session(images, options, seed=seed)
    trainee = row.kind(replace(row.step, rate=rate), row.begin(bench), bench.network, session)
    session.train(trainee)
    shared = trainee.shared()
    if row.tuned:
        step = Tune(TUNED_EPOCHS, temperature=row.step.temperature)
        shared = tune(step, shared, bench.network, session)
    return shared


def run(
    bench: Bench, images: Split, row: Training, seeds: Sequence[int] = (0,)
) -> list[dict[str, float]]:
    """Return a row's points, lowest rate first, those of a rate by seed."""
    packed = Row(row.name, feedback)
    points = []
    for rate in row.rates:
        for seed in seeds:
            shared = trained(bench, images, row, rate, seed)
            measured = bench.measure(bench.stored(shared, packed), packed.coder)
            points.append({"rate": rate, "seed": seed} | measured)
    return points


def untrained(bench: Bench) -> list[dict[str, float]]:
    """Return points of solutions that are not trained."""
    row = Row("feedback", feedback)
    return [
        {"k": k} | bench.measure(bench.stored(start(bench, k), row), row.coder) for k in UNTRAINED
    ]


def table(name: str, rows: dict[str, list[dict[str, float]]]) -> str:
    """Return the table of a network as Markdown."""
    lines = [
        f"| {name}, {EPOCHS} epochs | seeds | points: bytes @ KL | bytes at KL {KL} "
        "| against the base |",
        "|---|---|---|---|---|",
    ]
    sizes = {r: size_at([(p["size_bytes"], p["kl"]) for p in ps], KL) for r, ps in rows.items()}
    for row, points in rows.items():
        shown = ", ".join(f"{p['size_bytes']:,} @ {p['kl']:.4f}" for p in points)
        seeds = len({p["seed"] for p in points if "seed" in p}) or ""
        n_bytes, inside = sizes[row]
        change = "" if row == BASE else f"{n_bytes / sizes[BASE][0] - 1:+.1%}"
        # A line through two points says nothing beyond them.
        cells = f"{n_bytes:,.0f} | {change}" if inside else " | "
        lines.append(f"| {row} | {seeds} | {shown} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows of one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, help="of a study with calibration and train splits")
    parser.add_argument("--only", nargs="*", help="rows to run anew; the others stay as they are")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0], help="of each row's trainings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.spec)
    data = load_spec(arguments.spec).task().data
    assert data is not None
    images = load_splits(data)["train"]
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if arguments.only is None or "feedback" in arguments.only:
        known["feedback"] = untrained(bench)
    for row in ROWS:
        if arguments.only is not None and row.name not in arguments.only:
            continue
        started = time.perf_counter()
        known[row.name] = run(bench, images, row, arguments.seeds)
        shown = ", ".join(f"{p['size_bytes']:,} {p['kl']:.4f}" for p in known[row.name])
        print(f"{row.name}: {shown} ({time.perf_counter() - started:.0f} s)", flush=True)
        names = ["feedback", *(row.name for row in ROWS)]
        RESULT.write_text(json.dumps({n: known[n] for n in names if n in known}, indent=1) + "\n")
    put_table(f"distilling {bench.name}", table(bench.name, known))


if __name__ == "__main__":
    main()
