"""How often a file keeps the drop it was picked for, on images the pick has not seen.

    python studies/comparison/promises.py studies/digits.toml
    python studies/comparison/promises.py studies/mnist-lenet300.toml

Every candidate of ``uniform`` is measured once on all images of the search and the holdout split
together. SPLITS times these are divided anew; the smallest solution within a limit is picked by the
one part, as ``moeash export --max-drop`` does it, and its drop looked at on the other. Of a pick by
the drop as measured (0 standard errors) the luckiest of some hundred candidates is what one gets.

Writes ``promises.json`` and a table of README.md.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tables import put_table

from moeash.codec.size import size
from moeash.core.kept import Keeping
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Recipe
from moeash.data.splits import Split, load_splits
from moeash.evaluation.assess import noise_of
from moeash.evaluation.loading import compressor_of
from moeash.evaluation.metrics import predicted
from moeash.networks.writing.inplace import load_into
from moeash.study.spec.reading import load_spec

RESULT = Path(__file__).with_name("promises.json")

SPLITS = 30
"""Divisions of the images, each drawn with its number as seed."""

LIMITS = (0.002, 0.005, 0.01, 0.02)
"""Drops that are asked for."""

CAUTIONS = (0.0, 1.0, 2.0, 3.0)
"""Standard errors that are added to a drop before it is held against a limit."""

HIGHEST_K = 256


def measured(spec: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64], int]:
    """Return which images are right, of the float network and by candidate; bytes; search images.

    Returns:
        ``(n,)``, ``(n_candidates, n)``, ``(n_candidates,)``, and how many of n are searched on.
    """
    task = replace(load_spec(spec).task(), keeping=Keeping(), n_threads=1)
    assert task.data is not None
    splits = load_splits(task.data)
    parts = [splits["search"], splits["holdout"]]
    with compressor_of(task) as compressor:
        module = compressor.network.module
        before = np.concatenate([right(module, part) for part in parts])
        found, sizes = [], []
        for k in range(2, HIGHEST_K + 1):
            shared = compressor.build(Recipe(Candidate.of({"k": k})))
            load_into(module, shared.decoded())
            found.append(np.concatenate([right(module, part) for part in parts]))
            sizes.append(size(shared, coder=task.codec.coder).total)
        return before, np.array(found), np.array(sizes), len(parts[0])


def right(module: torch.nn.Module, split: Split) -> NDArray[np.bool_]:
    """Return which images of a split a network gets right."""
    with torch.inference_mode():
        return np.concatenate([predicted(module(x)) == y.numpy() for x, y in split.batches(1000)])


def kept(
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    n_search: int,
    limit: float,
    caution: float,
) -> list[tuple[float, int]]:
    """Return drop on unseen images and bytes of the pick of every division that has one."""
    picks = []
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(before))
        seen, unseen = order[:n_search], order[n_search:]
        drops = before[seen].mean() - after[:, seen].mean(1)
        noise = [noise_of(row[seen], before[seen]) for row in after]
        within = drops + caution * np.array(noise, dtype=float) <= limit
        if within.any():
            pick = int(np.flatnonzero(within)[sizes[within].argmin()])
            picks.append((float(before[unseen].mean() - after[pick, unseen].mean()), sizes[pick]))
    return picks


def rows(spec: Path) -> list[dict[str, float | int | None]]:
    """Return one row a limit and caution."""
    before, after, sizes, n_search = measured(spec)
    found: list[dict[str, float | int | None]] = []
    for limit in LIMITS:
        for caution in CAUTIONS:
            picks = kept(before, after, sizes, n_search, limit, caution)
            found.append(
                {
                    "limit": limit,
                    "standard_errors": caution,
                    "picks": len(picks),
                    "kept": sum(drop <= limit for drop, _ in picks),
                    "median_drop": float(np.median([d for d, _ in picks])) if picks else None,
                    "median_bytes": int(np.median([n for _, n in picks])) if picks else None,
                }
            )
    return found


def table(name: str, found: list[dict[str, float | int | None]]) -> str:
    """Return the table of a network as Markdown."""
    lines = [
        f"| {name}: limit | standard errors | picks | kept it | median drop | median bytes |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        drop = "" if row["median_drop"] is None else f"{row['median_drop']:.4f}"
        n_bytes = "" if row["median_bytes"] is None else f"{row['median_bytes']:,}"
        lines.append(
            f"| {row['limit']} | {row['standard_errors']:g} | {row['picks']} of {SPLITS} "
            f"| {row['kept']} | {drop} | {n_bytes} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Count on one network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, help="of a study of uniform bins")
    spec = parser.parse_args().spec
    torch.set_num_threads(1)
    name = load_spec(spec).name
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    known[name] = rows(spec)
    RESULT.write_text(json.dumps(known, indent=1) + "\n")
    put_table(f"promises {name}", table(name, known[name]))


if __name__ == "__main__":
    main()
