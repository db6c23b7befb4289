"""What moeash's own studies took at an earlier commit, beside what they take today.

    python studies/comparison/older.py b4c0884

Reads the rows of both, out of the repository's history, and measures nothing. Bytes are read at KL
divergences of holdout images evenly spaced, in logarithms, over what both fronts reach, each on the
straight lines between the two solutions nearby; their ratio is a geometric mean. Solutions are each
known to some per cent, so a mean over few of them is known to about half of one.

Writes a table of README.md.
"""

import argparse
import json
import subprocess
from collections.abc import Iterable, Sequence
from math import exp, log

from compare import NETWORKS
from equal_cost import between
from rows import ROWS, Row, kl_points, read_rows
from tables import put_table

PEERS = ("moeash uniform", "moeash gpfq", "moeash feedback")
PLACES = 9
"""Divergences at which sizes are read."""

SHOWN = (0.25, 0.5, 0.75)
"""Where in that range sizes are shown."""

Points = Sequence[tuple[float, float]]


def rows_at(commit: str) -> list[Row]:
    """Return the rows as they were at a commit."""
    command = ["git", "show", f"{commit}:./{ROWS.name}"]
    text = subprocess.run(command, cwd=ROWS.parent, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in text.stdout.splitlines()]


def points_of(rows: Iterable[Row], network: str, peer: str) -> Points:
    """Return the bytes and the KL divergence of a method's files."""
    return kl_points(row for row in rows if (row["network"], row["peer"]) == (network, peer))


def common_range(first: Points, second: Points) -> tuple[float, float]:
    """Return the least and the largest divergence that both reach."""
    return (
        max(min(kl for _, kl in points) for points in (first, second)),
        min(max(kl for _, kl in points) for points in (first, second)),
    )


def spaced(low: float, high: float, shares: Iterable[float]) -> list[float]:
    """Return numbers at shares of the way from low to high, in logarithms."""
    return [exp(log(low) + (log(high) - log(low)) * share) for share in shares]


def ratio_of(before: Points, today: Points) -> float:
    """Return the mean ratio of today's bytes to those before, at equal divergence."""
    places = spaced(*common_range(before, today), [i / (PLACES - 1) for i in range(PLACES)])
    return exp(sum(log(between(today, kl) / between(before, kl)) for kl in places) / PLACES)


def table(before: Sequence[Row], today: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| network | method | bytes before, today at equal KL (in brackets) | today / before |",
        "|---|---|---|--:|",
    ]
    for network in NETWORKS:
        for peer in PEERS:
            old, new = (points_of(rows, network.source, peer) for rows in (before, today))
            if not old or not new:
                continue
            shown = ", ".join(
                f"{between(old, kl):,.0f} → {between(new, kl):,.0f} ({kl:.2g})"
                for kl in spaced(*common_range(old, new), SHOWN)
            )
            title = network.title.partition(",")[0]
            method = peer.removeprefix("moeash ")
            lines.append(f"| {title} | {method} | {shown} | {ratio_of(old, new):.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit", help="whose rows are those before")
    put_table("older", table(rows_at(parser.parse_args().commit), read_rows()))


if __name__ == "__main__":
    main()
