"""Commands about clusters: submit, stop, logs. A study is one job of Ray's Jobs API.

A job takes 5 to 10 s to start, so there is one for a study, never one for a candidate. It is named
after its study: submitting twice does not run twice, and whoever knows the study finds the job.
"""

import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeash.cli.show import JsonOption, RetryOption, StorageOption, print_json
from moeash.errors import BackendError, InputError

if TYPE_CHECKING:
    from moeash.study.spec.spec import StudySpec

StudyArgument = Annotated[str, typer.Argument(help="Name of the study.", metavar="STUDY")]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Dashboard of the cluster's head, e.g. http://HEAD:8265.",
    ),
]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOP_WAIT_S = 30.0


def submit(
    spec: Annotated[Path, typer.Argument(help="TOML file of the study.", metavar="SPEC")],
    address: AddressOption,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a spec value, e.g. seed=1."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its log until it ends.")] = False,
    retry_failed: RetryOption = False,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Run a study on a cluster, or continue it there; once, however often submitted."""
    from moeash.study.spec.reading import load_spec

    settings = [*(overrides or []), 'backend.kind="ray"', 'backend.address="auto"']
    checked = load_spec(spec, settings)
    store = _storage_of_cluster(storage)
    _check_paths(checked)
    client = _connect(address)
    job = job_of(checked.name)
    command = ["python", "-m", "moeash.cli.main", "run", "spec.toml"]
    for setting in settings:
        command += ["--set", setting]
    if retry_failed:
        command.append("--retry-failed")
    with _border(address), tempfile.TemporaryDirectory() as folder:
        before = _status(client, job)
        if before in ENDED:
            client.delete_job(job)  # its name is free again, and the study continues
        if before is None or before in ENDED:
            Path(folder, "spec.toml").write_text(spec.read_text(encoding="utf-8"), encoding="utf-8")
            client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job,
                runtime_env={"working_dir": folder, "env_vars": {"MOEASH_STORAGE": store}},
                metadata={"moeash_study": checked.name},
            )
    state = "submitted" if before is None or before in ENDED else "already running"
    if json_:
        print_json({"study": checked.name, "job": job, "state": state})
    else:
        print(f"study {checked.name}: {state} as job {job}")
    if follow:
        _follow(client, job, address)


def stop(study: StudyArgument, address: AddressOption, json_: JsonOption = False) -> None:
    """Stop a study on a cluster; everything evaluated is stored, submit it again to continue."""
    client = _connect(address)
    job = job_of(study)
    with _border(address):
        status = _status(client, job)
        if status is None:
            raise InputError(f"no job of study {study!r} at {address}; was it submitted there?")
        if status not in ENDED:
            client.stop_job(job)
        deadline = time.monotonic() + STOP_WAIT_S
        while (status := _status(client, job)) not in ENDED:
            if time.monotonic() > deadline:
                raise BackendError(f"job {job} did not stop within {STOP_WAIT_S:g} s")
            time.sleep(0.2)
    if json_:
        print_json({"study": study, "job": job, "state": str(status).lower()})
    else:
        print(f"study {study}: {str(status).lower()}")


def logs(
    study: StudyArgument,
    address: AddressOption,
    follow: Annotated[bool, typer.Option("--follow", help="Until the study ends.")] = False,
    json_: JsonOption = False,
) -> None:
    """Show what a study on a cluster has printed."""
    client = _connect(address)
    job = job_of(study)
    if _status(client, job) is None:
        raise InputError(f"no job of study {study!r} at {address}; was it submitted there?")
    if follow:
        _follow(client, job, address)
        return
    with _border(address):
        text = client.get_job_logs(job)
    if json_:
        print_json({"study": study, "job": job, "log": text})
    else:
        sys.stdout.write(text)


def job_of(study: str) -> str:
    """Return the job of a study."""
    return f"moeash-{study}"


def _storage_of_cluster(storage: str | None) -> str:
    if storage is None:
        raise InputError(
            "a study on a cluster needs storage that outlives its job; give --storage "
            "postgresql+psycopg://USER@HOST/DATABASE or set MOEASH_STORAGE"
        )
    if "://" not in storage and not Path(storage).is_absolute():
        raise InputError(
            f"storage {storage!r} is a relative path, which means another file on the cluster; "
            "give postgresql+psycopg://USER@HOST/DATABASE or an absolute path of the head node"
        )
    return storage


def _check_paths(spec: "StudySpec") -> None:
    root = None if spec.data is None else spec.data.root
    paths = {"network.checkpoint": spec.network.checkpoint, "data.root": root}
    for key, path in paths.items():
        if path is not None and not Path(path).is_absolute():
            raise InputError(
                f"{key} = {path!r} is relative, which means another place on the cluster; "
                f"give the path that every node sees, e.g. --set {key}=/data/..."
            )


def _connect(address: str) -> Any:
    from moeash.backends import ray_settings

    if not address.startswith(("http://", "https://")):
        raise InputError(
            f"address {address!r} is not the URL of a dashboard; give http://HEAD:8265"
        )
    ray_settings.prepare(address)
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise BackendError(
            "clusters need Ray with its Jobs API; install it with: pip install 'moeash[ray]'"
        ) from error
    with _border(address):
        return JobSubmissionClient(address)


@contextmanager
def _border(address: str) -> Iterator[None]:
    """What the Jobs API raises stops here."""
    try:
        yield
    except (RuntimeError, ConnectionError, OSError) as error:
        text = " ".join(str(error).split())
        if "401" in text or "403" in text or "token" in text.lower():
            raise BackendError(
                f"{address} refused this user's token; set RAY_AUTH_MODE=token and "
                "RAY_AUTH_TOKEN_PATH to the cluster's token file"
            ) from error
        if "connect" in text.lower() or "resolve" in text.lower():
            raise BackendError(
                f"no dashboard answers at {address}; is it the head's address, and does the head "
                "run `ray start --head --dashboard-host=0.0.0.0`?"
            ) from error
        raise BackendError(f"Ray's Jobs API at {address}: {text[:300]}") from error


def _status(client: Any, job: str) -> str | None:
    try:
        return str(client.get_job_status(job).value)
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            return None
        raise


def _follow(client: Any, job: str, address: str) -> None:
    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            sys.stdout.write(lines)
            sys.stdout.flush()

    with _border(address):
        asyncio.run(tail())
        deadline = time.monotonic() + STOP_WAIT_S
        while (status := _status(client, job)) not in ENDED and time.monotonic() < deadline:
            time.sleep(0.2)
        if status != "SUCCEEDED":
            message = client.get_job_info(job).message
            raise BackendError(
                f"job {job} {str(status).lower()}: {' '.join(message.split())[:300]}"
            )
