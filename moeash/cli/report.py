"""A study leaves for people and other tools: one HTML file, a table, a study of Optuna."""

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


def evaluations(
    study: Annotated[str, typer.Argument(help="Name of a stored study.", metavar="STUDY")],
    to: Annotated[Path, typer.Option("--to", help="File to write: .csv, .json or .parquet.")],
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Write every evaluation of a study as a table."""
    from moeash.exports.interop.tables import write_table
    from moeash.study.opening import open_study

    size_bytes = write_table(open_study(study, storage), to)
    if json_:
        print_json({"study": study, "path": str(to), "size_bytes": size_bytes})
        return
    say(f"wrote {to}")


def export_optuna(
    study: Annotated[str, typer.Argument(help="Name of a stored study.", metavar="STUDY")],
    to: Annotated[
        str, typer.Option("--to", help="Storage of Optuna, e.g. sqlite:///x.db.", metavar="URL")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Of the study there; default: the same.")
    ] = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a study into a storage of Optuna, for its dashboard and plots."""
    from moeash.exports.interop.optuna_study import export_optuna as written
    from moeash.study.opening import open_study
    from moeash.study.storage.engines.urls import without_password

    n_trials = written(open_study(study, storage), to, name=name)
    shown = without_password(to)
    if json_:
        print_json({"study": study, "storage": shown, "name": name or study, "trials": n_trials})
        return
    say(f"wrote {n_trials} trials to study {name or study} of {shown}")
