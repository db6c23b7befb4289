"""Few values on all layers: Weight Fixing Networks and Probabilistic Weight Fixing beside bins.

    python studies/comparison/fixing.py

Reads ``rows.jsonl`` and the fronts of the studies; trains nothing. Bits are those of the coded
indices over all weights, zeros among them: the published tables leave zeros out. Bytes of uniform
bins and of ``feedback`` are read at the row's own KL divergence of holdout images.

Writes a table of README.md.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compare import FRONTS, NETWORKS
from equal_cost import size_at
from rows import Row, read_rows
from tables import put_table

METHODS = ("moeash wfn", "moeash wfn distilled", "moeash pwfn")
BESIDE = ("moeash uniform", "moeash feedback")


def solution_of(front: Mapping[str, Any], row: Row) -> Mapping[str, Any]:
    """Return the solution that a row was measured of."""
    found: Mapping[str, Any] = next(s for s in front["front"] if s["id"] == row["solution"])
    return found


def seconds_of(front: Mapping[str, Any]) -> float:
    """Return what one solution took to train; one that was distilled was trained twice."""
    twice = bool(front["spec"].get("distill", {}).get("solutions"))
    return float(front["evaluation_seconds"] / (1 if twice else front["evaluations"]))


def table(rows: Iterable[Row], fronts: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table as Markdown.

    Args:
        rows: of all methods.
        fronts: by study.
    """
    rows = list(rows)
    lines = [
        "| network | method | entries | bits a weight | bytes | top-1 drop | KL "
        "| uniform bins | feedback | training, min |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for network in NETWORKS:
        title = network.title.partition(",")[0]
        of_network = [row for row in rows if row["network"] == network.source]
        beside = [points_of(of_network, peer) for peer in BESIDE]
        for row in of_network:
            if row["peer"] not in METHODS:
                continue
            solution = solution_of(fronts[row["study"]], row)
            kl = row["holdout_kl"]
            sizes = [size_at(points, kl) for points in beside]
            read = [f"{size:,.0f}" if inside else f"({size:,.0f})" for size, inside in sizes]
            lines.append(
                f"| {title} | {row['peer'].removeprefix('moeash ')}, {row['setting']} "
                f"| {solution['entries']} | {solution['bits_per_weight']:.2f} "
                f"| {row['size_bytes']:,} | {row['holdout_drop']:.4f} | {kl:.2g} "
                f"| {read[0]} | {read[1]} | {seconds_of(fronts[row['study']]) / 60:.0f} |"
            )
    return "\n".join(lines)


def points_of(rows: Sequence[Row], peer: str) -> list[tuple[float, float]]:
    """Return the bytes and the KL divergence of a method's files."""
    return [(row["size_bytes"], row["holdout_kl"]) for row in rows if row["peer"] == peer]


def main() -> None:
    """Write the table."""
    rows = read_rows()
    studies = {row["study"] for row in rows if row["peer"] in METHODS}
    fronts = {name: json.loads((FRONTS / name / "front.json").read_text()) for name in studies}
    put_table("fixing", table(rows, fronts))


if __name__ == "__main__":
    main()
