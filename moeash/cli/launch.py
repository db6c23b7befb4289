"""Commands about studies that run elsewhere than in the terminal: launch, stop, logs."""

import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeash.cli.show import (
    AcceptOption,
    JsonOption,
    RetryOption,
    StorageOption,
    StudyArgument,
    print_json,
    say,
)
from moeash.errors import BackendError
from moeash.escaping import visible

if TYPE_CHECKING:
    from moeash.launch.base import Launch, Launcher
    from moeash.launch.process import Processes

INTERRUPTED = 130
"""Exit code, as that of the study itself."""

AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Dashboard of a Ray cluster's head, e.g. http://HEAD:8265; default: this machine.",
        show_default=False,
    ),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        envvar="MOEASH_FOLDER",
        help="Where logs are kept; default beside the database.",
        show_default=False,
    ),
]


def launch(
    spec: Annotated[Path, typer.Argument(help="TOML file of the study.", metavar="SPEC")],
    address: AddressOption = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a spec value, e.g. seed=1."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its log until it ends.")] = False,
    retry_failed: RetryOption = False,
    accept_baseline: AcceptOption = False,
    folder: FolderOption = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Run a study, or continue it, in a process of its own; once, however often launched.

    It goes on when this terminal is closed. With ``--address`` it is a job of a Ray cluster.
    """
    settings = overrides or []
    if address is None:
        launcher: Launcher = _processes(storage, folder)
        asked = _here(spec, settings)
    else:
        launcher, asked = _on_cluster(address, spec, settings, storage)
    asked = replace(asked, retry_failed=retry_failed, accept_baseline=accept_baseline)
    is_new = launcher.start(asked, _user())
    place = launcher.place(asked.study)
    state = "started" if is_new else _standing(launcher, asked.study)
    if json_:
        print_json({"study": asked.study, **place, "state": state})
    else:
        say(f"study {asked.study}: {state} as {_words(place)}")
    if follow:
        _follow(launcher, asked.study)


def stop(
    study: StudyArgument,
    address: AddressOption = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Stop a launched study; everything evaluated is stored, launch it again to continue."""
    launcher = _launcher(address, storage)
    state = launcher.stop(study).name
    if json_:
        print_json({"study": study, **launcher.place(study), "state": state})
    else:
        say(f"study {study}: {state}")


def logs(
    study: StudyArgument,
    address: AddressOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Until the study ends.")] = False,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what a launched study has printed."""
    launcher = _launcher(address, storage)
    if follow:
        _follow(launcher, study)
    elif json_:
        print_json({"study": study, **launcher.place(study), "log": "".join(launcher.log(study))})
    else:
        _write(launcher.log(study))


def _here(spec: Path, settings: list[str]) -> "Launch":
    from moeash.launch.base import Launch
    from moeash.study.spec.reading import load_spec

    name = load_spec(spec, settings).name
    text = spec.read_text(encoding="utf-8")
    return Launch(name, text, tuple(settings), folder=str(Path.cwd()))


def _on_cluster(
    address: str, spec: Path, settings: list[str], storage: str | None
) -> tuple["Launcher", "Launch"]:
    from moeash.launch.ray_jobs import RayJobs, launch_of

    asked = launch_of(spec, settings, storage=storage)  # before anything is connected to
    return RayJobs(address), asked


def _launcher(address: str | None, storage: str | None) -> "Launcher":
    if address is None:
        return _processes(storage, None, create=False)
    from moeash.launch.ray_jobs import RayJobs

    return RayJobs(address)


def _processes(storage: str | None, folder: Path | None, *, create: bool = True) -> "Processes":
    from moeash.launch.process import Processes
    from moeash.study.opening import DEFAULT_STORAGE
    from moeash.study.storage.sql import SqlStorage

    opened = SqlStorage(storage or DEFAULT_STORAGE, create=create)
    return Processes(opened.database, folder)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"user {os.getuid()}"


def _words(place: Mapping[str, Any]) -> str:
    if "job" in place:
        return f"job {place['job']}"
    if place["process"] is None:
        return f"launch {place['launch']}"
    return f"launch {place['launch']}, process {place['process']}; log in {place['folder']}"


def _standing(launcher: "Launcher", study: str) -> str:
    state = launcher.state(study)
    return "already queued" if state is not None and state.name == "pending" else "already running"


def _follow(launcher: "Launcher", study: str) -> None:
    _write(launcher.log(study, follow=True))
    state = launcher.state(study)
    if state is not None and state.name == "stopped":
        raise typer.Exit(INTERRUPTED)
    if state is None or state.name != "succeeded":
        how = "is gone" if state is None else f"{state.name}: {state.message}"
        raise BackendError(f"study {study} {how}")


def _write(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(visible(piece, keep="\n\t"))
        sys.stdout.flush()
