"""Launches as commands: what a person would type."""

import sys
from collections.abc import Sequence
from pathlib import Path

from moeash.exports.formats.names import SUFFIXES
from moeash.launch.base import export_of_request, launch_of_request
from moeash.study.storage.team.launch import LaunchRecord

# Safe path: whatever lies in the folder where it works is not imported in the place of a module.
MOEASH = (sys.executable, "-P", "-m", "moeash")

SPEC, LOG, OUT, REPORT = "spec.toml", "log", "out", "report.json"
"""Names in the folder of a launch."""


def command_of(record: LaunchRecord, folder: Path, address: str | None = None) -> Sequence[str]:
    """Return the command that a launch is.

    Args:
        record: the launch.
        folder: its own.
        address: of a Ray cluster's dashboard, for runs: the process then follows the study's job
            until that ends. Starting a job twice does not run it twice, so a follower that was
            lost is replaced by another one.
    """
    if record.kind == "export":
        return _export(record, folder)
    launch = launch_of_request(record.study, record.request)
    command = [*MOEASH, "run" if address is None else "launch", str(folder / SPEC)]
    if address is not None:
        command += ["--address", address, "--follow"]
    return [*command, *launch.flags]


def stop_command(study: str, address: str) -> Sequence[str]:
    """Return the command that ends a study on a Ray cluster."""
    return [*MOEASH, "stop", "--address", address, "--", study]


def _export(record: LaunchRecord, folder: Path) -> Sequence[str]:
    export = export_of_request(record.study, record.request)
    first = export.formats[0]
    target = folder / OUT / f"{record.study}{SUFFIXES[first][0]}"
    # Its own folder: what is there is of a try that was killed.
    command = [*MOEASH, "export", "--force", "--to", str(target)]
    command += ["--report", str(folder / OUT / REPORT)]
    options = {
        "--pick": export.pick,
        "--id": export.id,
        "--max-drop": export.max_drop,
        "--max-bytes": export.max_bytes,
    }
    for name, value in options.items():
        if value is not None:
            command += [name, str(value)]
    for name in export.formats:
        command += ["--format", name]
    for module in export.allow_modules:
        command += ["--allow-module", module]
    return [*command, "--", record.study]
