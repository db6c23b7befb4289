"""A study as one job of Ray's Jobs API.

A job takes 5 to 10 s to start, so there is one for a study, never one for a candidate. It is named
after its study: starting twice does not run twice, and whoever knows the study finds the job. Each
continuation is a job of its own with the next number behind the name. A name is never used again:
Ray goes on watching an ended job for a second or more, and calls whatever has its name by then
failed.

Whoever reaches the Jobs API reads the environment and the command of every job. A password is
therefore never sent: the head node has the database's URL in its own environment, and the job ends
at once, saying why, where that is missing or is another database than the one that was meant.
"""

import asyncio
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from moeash.backends import ray_settings
from moeash.errors import BackendError, InputError
from moeash.launch.base import Launch, State, StateName
from moeash.study.storage.engines.urls import has_password_option, without_password

if TYPE_CHECKING:
    from moeash.study.spec.spec import StudySpec

STOP_WAIT_S = 30.0
POLL_S = 0.2
AGENT_WAIT_S = 60.0
"""How long a head that has just started may take until it can start jobs."""

ON_CLUSTER = ('backend.kind="ray"', 'backend.address="auto"')
"""Settings of every study that runs as a job."""


def launch_of(
    path: Path,
    settings: Sequence[str] = (),
    *,
    storage: str | None = None,
    retry_failed: bool = False,
    accept_baseline: bool = False,
) -> Launch:
    """Return the launch of a spec, checked as far as that is possible from here.

    Args:
        path: TOML file.
        settings: overrides, ``KEY=VALUE`` each.
        storage: database URL, or a path of the head node; None: what the head node says.
        retry_failed: evaluate again what has failed through no fault of its own.
        accept_baseline: continue although the float network is another function than it was.

    Raises:
        SpecError: the spec does not say what to do.
        InputError: a path or the storage means something else on the cluster.
    """
    from moeash.study.spec.reading import load_spec

    settings = (*settings, *ON_CLUSTER)
    spec = load_spec(path, settings)
    _check_paths(spec)
    if storage is not None:
        _check_storage(storage)
    text = path.read_text(encoding="utf-8")
    return Launch(spec.name, text, settings, storage, retry_failed, accept_baseline)


def job_of(study: str, run: int = 1) -> str:
    """Return the name of a job of a study; no study has ``@`` in its name."""
    return f"moeash-{study}" if run == 1 else f"moeash-{study}@{run}"


@dataclass(frozen=True)
class Job:
    """A job of a study.

    Attributes:
        study: name of the study.
        run: how many jobs of the study there are up to this one.
        state: where it stands.
    """

    study: str
    run: int
    state: State

    @property
    def name(self) -> str:
        """Its name, which no other job has."""
        return job_of(self.study, self.run)


class RayJobs:
    """Studies on the cluster whose dashboard answers at an address."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: URL of the head's dashboard.

        Raises:
            InputError: it is no URL.
            BackendError: nobody answers there, or Ray is not installed here.
        """
        if not address.startswith(("http://", "https://")):
            raise InputError(
                f"address {address!r} is not the URL of a dashboard; give http://HEAD:8265"
            )
        self.address = address
        ray_settings.prepare(address)
        try:
            from ray.job_submission import JobSubmissionClient
        except ImportError as error:
            raise BackendError(
                "clusters need Ray with its Jobs API; install it with: pip install 'moeash[ray]'"
            ) from error
        with self._border():
            self._client: Any = JobSubmissionClient(address)

    def start(self, launch: Launch, requested_by: str = "terminal") -> bool:
        """Run a study, or continue it; return whether it had to be started."""
        with self._border(), tempfile.TemporaryDirectory() as folder:
            before = self._last(launch.study)
            if before is not None and not before.state.ended:
                return False
            run = 1 if before is None else before.run + 1
            Path(folder, "spec.toml").write_text(launch.spec, encoding="utf-8")
            self._submit(
                entrypoint=entrypoint(launch),
                submission_id=job_of(launch.study, run),
                runtime_env={"working_dir": folder, "env_vars": environment(launch)},
                metadata={"moeash_study": launch.study, "requested_by": requested_by},
            )
        return True

    def _submit(self, **job: Any) -> None:
        """Submit a job; the dashboard answers some time before the head's agent can start one."""
        deadline = time.monotonic() + AGENT_WAIT_S
        while True:
            try:
                self._client.submit_job(**job)
                return
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    def stop(self, study: str) -> State:
        """End a study and wait until it has ended; everything evaluated is stored."""
        job = self._known(study)
        with self._border():
            if not job.state.ended:
                self._client.stop_job(job.name)
        job = self._wait(job)
        if not job.state.ended:
            raise BackendError(f"job {job.name} did not stop within {STOP_WAIT_S:g} s")
        return job.state

    def state(self, study: str) -> State | None:
        """Return where a study stands; None when it was never started."""
        job = self.job(study)
        return None if job is None else job.state

    def place(self, study: str) -> Mapping[str, Any]:
        """Return the name of a study's last job."""
        job = self.job(study)
        return {"job": None if job is None else job.name}

    def job(self, study: str) -> Job | None:
        """Return the last job of a study; None when it was never started."""
        with self._border():
            return self._last(study)

    def log(self, study: str, *, follow: bool = False) -> Iterator[str]:
        """Yield what a study has printed, in pieces; with ``follow`` until it has ended."""
        job = self._known(study)
        with self._border():
            if not follow:
                yield self._client.get_job_logs(job.name)
                return
            pieces = self._client.tail_job_logs(job.name)

            async def following() -> str | None:
                return cast("str | None", await anext(pieces, None))

            with asyncio.Runner() as runner:
                while (piece := runner.run(following())) is not None:
                    yield piece
        self._wait(job)

    def _known(self, study: str) -> Job:
        job = self.job(study)
        if job is None:
            raise InputError(f"no job of study {study!r} at {self.address}; was it launched there?")
        return job

    def _wait(self, job: Job) -> Job:
        """Return a job that is about to end, as it stands then."""
        deadline = time.monotonic() + STOP_WAIT_S
        while not job.state.ended and time.monotonic() < deadline:
            time.sleep(POLL_S)
            with self._border():
                job = replace(job, state=_state(self._client.get_job_info(job.name)))
        return job

    def _last(self, study: str) -> Job | None:
        own = re.compile(re.escape(job_of(study)) + r"(?:@([0-9]+))?")
        jobs = [
            Job(study, int(name[1] or 1), _state(info))
            for info in self._client.list_jobs()
            if (name := own.fullmatch(info.submission_id or ""))
        ]
        return max(jobs, key=lambda job: job.run, default=None)

    @contextmanager
    def _border(self) -> Iterator[None]:
        """What the Jobs API raises stops here."""
        try:
            yield
        except (RuntimeError, ConnectionError, OSError) as error:
            text = " ".join(str(error).split())
            if "401" in text or "403" in text or "token" in text.lower():
                raise BackendError(
                    f"{self.address} refused this user's token; set RAY_AUTH_MODE=token and "
                    "RAY_AUTH_TOKEN_PATH to the cluster's token file"
                ) from error
            if "connect" in text.lower() or "resolve" in text.lower():
                raise BackendError(
                    f"no dashboard answers at {self.address}; is it the head's address, and does "
                    "the head run `ray start --head --dashboard-host=0.0.0.0`?"
                ) from error
            raise BackendError(f"Ray's Jobs API at {self.address}: {text[:300]}") from error


def _state(info: Any) -> State:
    name = cast(StateName, str(info.status.value).lower())
    message = "" if name in ("running", "succeeded") else " ".join(info.message.split())[:300]
    return State(name, message)


# ------------------------------------------------------------------ what everybody may read


def entrypoint(launch: Launch) -> str:
    """Return the shell command of a job. It holds no secret."""
    command = ["python", "-m", "moeash", "run", "spec.toml", *launch.flags]
    run = f"exec {shlex.join(command)}"
    if _may_be_read(launch.storage):
        return run
    # Without this a study would be stored beside its job, and be gone with it.
    checks = [': "${MOEASH_STORAGE:?set it in the environment of the head node}"']
    if launch.storage is not None:
        place = shlex.quote(_place(launch.storage))
        other = shlex.quote(f"MOEASH_STORAGE of the head node is another database than {place}")
        checks.append(f'[ "${{MOEASH_STORAGE##*@}}" = {place} ] || {{ echo {other} >&2; exit 2; }}')
    return "; ".join([*checks, run])


def environment(launch: Launch) -> dict[str, str]:
    """Return the environment of a job beside the head's own. It holds no secret."""
    if launch.storage is None or not _may_be_read(launch.storage):
        return {}
    return {"MOEASH_STORAGE": launch.storage}


def _may_be_read(storage: str | None) -> bool:
    """Tell whether a job's storage is named in its environment: it is known and has no password."""
    return storage is not None and not has_password(storage)


def has_password(storage: str) -> bool:
    """Tell whether a database URL has its password in clear."""
    return without_password(storage) != storage


def _place(storage: str) -> str:
    return storage.rpartition("@")[2]


def _check_storage(storage: str) -> None:
    if "://" not in storage and not Path(storage).is_absolute():
        raise InputError(
            f"storage {storage!r} is a relative path, which means another file on the cluster; "
            "give postgresql+psycopg://USER@HOST/DATABASE or an absolute path of the head node"
        )
    if has_password_option(storage) or (
        # The variable of this machine names the head's own database, as docker/ sets it up.
        has_password(storage) and storage != os.environ.get("MOEASH_STORAGE")
    ):
        raise InputError(
            "the storage's URL has a password, which everybody who reaches the cluster would read; "
            "set MOEASH_STORAGE in the environment of the head node and leave out --storage, or "
            "give a URL without the password and the head a file of passwords (PGPASSFILE)"
        )


def _check_paths(spec: "StudySpec") -> None:
    root = None if spec.data is None else spec.data.root
    paths = {
        "network.checkpoint": spec.network.checkpoint,
        "data.root": root,
        "method.start": spec.start,
    }
    for key, path in paths.items():
        if path is not None and not Path(path).is_absolute():
            raise InputError(
                f"{key} = {path!r} is relative, which means another place on the cluster; "
                f"give the path that every node sees, e.g. --set {key}=/data/..."
            )
