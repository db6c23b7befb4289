"""``moeash report``: a study as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

from moeash.cli.show import JsonOption, StorageOption, print_json, say


def report(
    study: Annotated[str, typer.Argument(help="Name of a stored study.", metavar="STUDY")],
    to: Annotated[Path, typer.Option("--to", help="HTML file to write.")],
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a study as one HTML file: its front, its course, its notes; opens without a server."""
    from moeash.service.reports.writing import write_report

    write_report(study, to, storage=storage)
    if json_:
        print_json({"study": study, "path": str(to), "size_bytes": to.stat().st_size})
        return
    say(f"wrote {to}")
