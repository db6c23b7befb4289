"""How values look in a terminal, and how a command answers in JSON."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeash.core.plain import json_text
from moeash.core.progress import Progress, silent
from moeash.escaping import visible

if TYPE_CHECKING:
    from moeash.study.facts import StudyFacts
    from moeash.study.solution import Solution
    from moeash.study.spec.spec import StudySpec

ForceOption = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]
StudyArgument = Annotated[str, typer.Argument(help="Name of the study.", metavar="STUDY")]
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

AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-baseline", help="Go on although the float network is another function now."
    ),
]


SpecOption = Annotated[
    Path | None,
    typer.Option("--spec", help="The study's own TOML file again: it says where files are now."),
]
MovedOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Where files are now, e.g. data.root=/data, or evaluation.device=cpu.",
    ),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-module",
        metavar="NAME",
        help="Run code of this module where the stored study names it; --spec allows its own.",
    ),
]


def find_modules_here(spec: "StudySpec") -> None:
    """Let code that a spec names be found where the person stands, after everything installed."""
    here = str(Path.cwd())
    if spec.user_code and here not in sys.path:
        sys.path.append(here)


def print_json(value: Any) -> None:
    """Print one JSON document."""
    print(json_text(value, indent=2))


def say(line: str) -> None:
    """Print one line, which may have names and messages of others in it."""
    print(visible(line), flush=True)  # a pipe would keep it until it has thousands of them


def remark(line: str) -> None:
    """Print one line beside an answer that a script may take from stdout."""
    print(visible(line), file=sys.stderr, flush=True)


def keep_stdout(json_: bool) -> AbstractContextManager[object]:
    """Send what a user's own function prints to stderr while stdout belongs to a JSON document."""
    return contextlib.redirect_stdout(sys.stderr) if json_ else contextlib.nullcontext()


@contextlib.contextmanager
def working() -> Iterator[Progress]:
    """Show work on a terminal: a bar on stderr, taken away afterwards; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield silent
        return
    from moeash.console.progress import LiveProgress
    from moeash.study.events import Doing

    display = LiveProgress()
    try:
        yield lambda what, done, total: display(Doing(what, done, total))
    finally:
        display.close()


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
    title = visible(title)
    columns = [(visible(heading), side) for heading, side in columns]
    rows = [[visible(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _plain_table(title, columns, rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left", header_style="bold")
    for heading, side in columns:
        drawn.add_column(Text(heading), justify="right" if side == "right" else "left")
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
        say(title)
        say("no wanted solution yet")
        return
    table(
        title,
        [
            ("id", "right"),
            ("recipe", "left"),
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
                str(s.recipe),
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
