"""``moeash serve``: the service and its page."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moeash.cli.show import JsonOption, StorageOption, print_json, say
from moeash.errors import BackendError


def serve(
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 8642,
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than the loopback need tokens.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which browsers may call it, e.g. moeash.example.org."),
    ] = None,
    storage: StorageOption = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            envvar="MOEASH_FOLDER",
            help="Folder of logs, exports and uploads; default: beside an SQLite file, "
            "else ./moeash-files.",
            show_default=False,
        ),
    ] = None,
    max_running: Annotated[
        int, typer.Option(min=1, help="Studies that run at a time; the others wait.")
    ] = 1,
    ray_address: Annotated[
        str | None,
        typer.Option(help="Dashboard of the cluster that studies run on, http://HEAD:8265."),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="A folder whose checkpoints and data studies may read."),
    ] = None,
    allow_module: Annotated[
        list[str] | None,
        typer.Option(help="A module, or package, whose functions studies may name."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Serve the page and the HTTP API, launch studies and exports.

    It prints one link, with which one browser of this machine can log in. Programs, and teams, use
    tokens; see moeash token.
    """
    try:
        from moeash.service.serving import Ready
        from moeash.service.serving import serve as run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "moeash":
            raise
        raise BackendError(
            f"the service needs {error.name}, which is not installed; install all that it needs "
            "with: pip install 'moeash[service]'"
        ) from error
    from moeash.service.settings import Settings

    settings = Settings(
        storage=storage,
        folder=folder,
        host=host,
        port=port,
        allow_hosts=tuple(allow_host or ()),
        max_running=max_running,
        ray_address=ray_address,
        roots=tuple(root or ()),
        allow_modules=tuple(allow_module or ()),
    )

    def tell(ready: Ready) -> None:
        if json_:
            print_json(asdict(ready))
            sys.stdout.flush()
            return
        say(f"moeash serves {ready.storage} at {ready.url}")
        if ready.login is not None:
            say(f"log in once, within ten minutes: {ready.login}")
        if ready.log is not None:
            say(f"its log is {ready.log}; Ctrl-C ends it, and what it has started goes on")

    run(settings, tell=tell)
