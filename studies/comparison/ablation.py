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
import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from ablation_bench import SCALES, Bench, Row
from ablation_rows import ROWS
from equal_cost import size_at
from tables import put_table
from torch.nn.modules.batchnorm import _BatchNorm

from moeash.core.codebook import SharedWeights

RESULT = Path(__file__).with_name("ablation.json")

RATIO = 1.15
"""Of one k to the next."""

MOST_STEPS = 12
"""From the common k: a row that does not reach the KL by then is extrapolated."""

BEYOND = 2
"""Values of k tried on either side of the KL at which rows are compared."""


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
