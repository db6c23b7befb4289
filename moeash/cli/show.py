"""How values look in a terminal, and how a command answers in JSON."""

import contextlib
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeash.core.plain import json_text

if TYPE_CHECKING:
    from moeash.study.facts import StudyFacts
    from moeash.study.solution import Solution

JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        envvar="MOEASH_STORAGE",
        help="SQLite file or database URL; default ./moeash.db.",
        show_default=False,
    ),
]
RetryOption = Annotated[
    bool,
    typer.Option("--retry-failed", help="Try again what failed through no fault of its own."),
]


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json_text(value, indent=2))


def keep_stdout(json_: bool) -> AbstractContextManager[object]:
    """Send what a user's own function prints to stderr while stdout belongs to a JSON document."""
    return contextlib.redirect_stdout(sys.stderr) if json_ else contextlib.nullcontext()


def bytes_text(n: int) -> str:
    """Return bytes with thousands separators."""
    return f"{n:,} B"


def clock(moment: str) -> str:
    """Return a stored moment without fractions of a second and zone."""
    return moment[:19].replace("T", " ")


def percent(fraction: float) -> str:
    """Return a fraction as percent with two decimals."""
    return f"{100 * fraction:.2f} %"


def table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns are (heading, "left" or "right").

    On a terminal rich draws it; elsewhere it is plain aligned text that survives a log.
    """
    if not sys.stdout.isatty():
        _plain_table(title, columns, rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left", header_style="bold")
    for heading, side in columns:
        drawn.add_column(heading, justify="right" if side == "right" else "left")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)


def _plain_table(
    title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]
) -> None:
    widths = [
        max([len(heading), *(len(row[i]) for row in rows)])
        for i, (heading, _) in enumerate(columns)
    ]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            cell.rjust(width) if side == "right" else cell.ljust(width)
            for cell, width, (_, side) in zip(cells, widths, columns, strict=True)
        ).rstrip()

    print(title)
    print(line([heading for heading, _ in columns]))
    for row in rows:
        print(line(row))


def front_table(facts: "StudyFacts", front: Sequence["Solution"]) -> None:
    """Print a front, smallest first, below what it is measured against."""
    title = (
        f"front of {facts.name}; the float network: {facts.original_bytes:,} B, "
        f"{facts.metric_name} {facts.baseline_text} on the search split"
    )
    if not front:
        print(f"{title}\nno wanted solution yet")
        return
    table(
        title,
        [
            ("id", "right"),
            ("candidate", "left"),
            ("stage", "left"),
            ("bytes", "right"),
            ("ratio", "right"),
            ("entries", "right"),
            ("bits/weight", "right"),
            (facts.metric_name, "right"),
            (f"drop{facts.unit}".replace(" ", " in "), "right"),
        ],
        [
            [
                str(s.id),
                str(s.record.candidate),
                s.record.stage,
                f"{s.size_bytes:,}",
                f"{s.ratio:.2f}",
                str(s.entries),
                f"{s.bits_per_weight:.3f}",
                f"{s.metric:.4f}",
                f"{s.drop:+.4f}",
            ]
            for s in front
        ],
    )
