"""Few values on all layers: Weight Fixing Networks and Probabilistic Weight Fixing beside bins.

    python studies/comparison/fixing.py

Reads ``rows.jsonl`` and the fronts of the studies; trains nothing. Entropies are of order 0 over
all layers together and all symbols, zero among them, which the published tables leave out; coded
bits are those the file takes for the same weights. Bytes of uniform bins and of ``feedback`` are
read at the row's own KL divergence of holdout images, in brackets beyond their files; then comes
their smallest file whose top-1 drop on the search images is no larger than the row's.

Writes a table of README.md.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from compare import FRONTS, NETWORKS, picked
from equal_cost import size_at
from rows import Row, kl_points, read_rows
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
        "| network | method | entries | entropy, bits | coded, bits | bytes | top-1 drop | KL "
        "| uniform bins, at equal KL | at equal drop "
        "| feedback, at equal KL | at equal drop | training, min |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for network in NETWORKS:
        title = network.title.partition(",")[0]
        of_network = [row for row in rows if row["network"] == network.source]
        for row in of_network:
            if row["peer"] not in METHODS:
                continue
            solution = solution_of(fronts[row["study"]], row)
            beside = " | ".join(equal_to(row, of_network, peer) for peer in BESIDE)
            lines.append(
                f"| {title} | {row['peer'].removeprefix('moeash ')}, {row['setting']} "
                f"| {solution['entries']} | {row['entropy']:.2f} "
                f"| {solution['bits_per_weight']:.2f} "
                f"| {row['size_bytes']:,} | {row['holdout_drop']:.4f} | {row['holdout_kl']:.2g} "
                f"| {beside} | {seconds_of(fronts[row['study']]) / 60:.0f} |"
            )
    return "\n".join(lines)


def equal_to(row: Row, rows: Sequence[Row], peer: str) -> str:
    """Return two cells: what another method takes at a row's KL divergence, and at its drop."""
    files = [other for other in rows if other["peer"] == peer]
    size, inside = size_at(kl_points(files), row["holdout_kl"])
    at_kl = f"{size:,.0f}" if inside else f"({size:,.0f})"
    small = picked(files, row["search_drop"])
    return f"{at_kl} | {small['size_bytes']:,}" if small else f"{at_kl} | none"


def main() -> None:
    """Write the table."""
    rows = read_rows()
    studies = {row["study"] for row in rows if row["peer"] in METHODS}
    fronts = {name: json.loads((FRONTS / name / "front.json").read_text()) for name in studies}
    put_table("fixing", table(rows, fronts))


if __name__ == "__main__":
    main()
