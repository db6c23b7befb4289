"""Commands about studies on a cluster: submit, stop, logs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moeash.cli.show import AcceptOption, JsonOption, RetryOption, StorageOption, print_json, say
from moeash.console.escaping import visible
from moeash.errors import BackendError

if TYPE_CHECKING:
    from moeash.launch.base import Launcher
    from moeash.launch.ray_jobs import RayJobs

StudyArgument = Annotated[str, typer.Argument(help="Name of the study.", metavar="STUDY")]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Dashboard of the cluster's head, e.g. http://HEAD:8265.",
    ),
]


def submit(
    spec: Annotated[Path, typer.Argument(help="TOML file of the study.", metavar="SPEC")],
    address: AddressOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a spec value, e.g. seed=1."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its log until it ends.")] = False,
    retry_failed: RetryOption = False,
    accept_baseline: AcceptOption = False,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Run a study on a cluster, or continue it there; once, however often submitted."""
    from moeash.launch.ray_jobs import RayJobs, launch_of

    launch = launch_of(
        spec,
        overrides or [],
        storage=storage,
        retry_failed=retry_failed,
        accept_baseline=accept_baseline,
    )
    jobs = RayJobs(address)
    state = "submitted" if jobs.start(launch) else "already running"
    job = _job(jobs, launch.study)
    if json_:
        print_json({"study": launch.study, "job": job, "state": state})
    else:
        say(f"study {launch.study}: {state} as job {job}")
    if follow:
        _follow(jobs, launch.study)


def stop(study: StudyArgument, address: AddressOption, json_: JsonOption = False) -> None:
    """Stop a study on a cluster; everything evaluated is stored, submit it again to continue."""
    from moeash.launch.ray_jobs import RayJobs

    jobs = RayJobs(address)
    state = jobs.stop(study).name
    if json_:
        print_json({"study": study, "job": _job(jobs, study), "state": state})
    else:
        say(f"study {study}: {state}")


def logs(
    study: StudyArgument,
    address: AddressOption,
    follow: Annotated[bool, typer.Option("--follow", help="Until the study ends.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what a study on a cluster has printed."""
    from moeash.launch.ray_jobs import RayJobs

    jobs = RayJobs(address)
    if follow:
        _follow(jobs, study)
    elif json_:
        print_json({"study": study, "job": _job(jobs, study), "log": "".join(jobs.log(study))})
    else:
        _write(jobs.log(study))


def _job(jobs: "RayJobs", study: str) -> str | None:
    job = jobs.job(study)
    return None if job is None else job.name


def _follow(launcher: "Launcher", study: str) -> None:
    _write(launcher.log(study, follow=True))
    state = launcher.state(study)
    if state is None or state.name != "succeeded":
        how = "is gone" if state is None else f"{state.name}: {state.message}"
        raise BackendError(f"study {study} {how}")


def _write(pieces: Iterator[str]) -> None:
    for piece in pieces:
        sys.stdout.write(visible(piece, keep="\n\t"))
        sys.stdout.flush()
