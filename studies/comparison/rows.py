"""The rows of the comparison: ``rows.jsonl`` has one line per measured file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]

ROWS = Path(__file__).with_name("rows.jsonl")


def read_rows(path: Path = ROWS) -> list[Row]:
    """Return all rows."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def put_rows(rows: Iterable[Row], path: Path = ROWS) -> None:
    """Add rows; one of the same network, peer and setting is replaced."""
    known = {_key(row): row for row in read_rows(path)} | {_key(row): row for row in rows}
    write_rows(known.values(), path)


def write_rows(rows: Iterable[Row], path: Path = ROWS) -> None:
    """Replace all rows."""
    ordered = sorted(rows, key=lambda row: (row["network"], row["peer"], row["size_bytes"]))
    path.write_text("".join(json.dumps(row) + "\n" for row in ordered))


def kl_points(rows: Iterable[Row]) -> list[tuple[float, float]]:
    """Return the bytes and the holdout KL divergence of every row."""
    return [(row["size_bytes"], row["holdout_kl"]) for row in rows]


def _key(row: Row) -> tuple[str, str, str]:
    return row["network"], row["peer"], row["setting"]
