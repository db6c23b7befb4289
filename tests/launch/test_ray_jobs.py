"""What a study as a Ray job says to whom, without any cluster. With one: test_ray_cluster.py."""

import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from moeash.errors import BackendError, InputError, SpecError
from moeash.launch import ray_jobs
from moeash.launch.base import Launch, State
from moeash.launch.ray_jobs import RayJobs, entrypoint, environment, launch_of

SECRET = "postgresql+psycopg://me:s3cret@db/studies"
OPEN = "postgresql+psycopg://me@db/studies"

SPEC = """
name = "digits"
network = { source = "digits-cnn" }
[data]
source = "digits"
[data.splits]
search = { part = "all", count = 200, seed = 0 }
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    monkeypatch.delenv("MOEASH_STORAGE", raising=False)
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


def test_a_launch_runs_on_the_cluster_it_was_sent_to(spec):
    launch = launch_of(spec, ["seed=3"], storage=OPEN, retry_failed=True)
    assert (launch.study, launch.spec) == ("digits", SPEC)
    command = entrypoint(launch)
    assert "--set seed=3" in command and command.endswith("--retry-failed")
    assert """'backend.kind="ray"'""" in command and """'backend.address="auto"'""" in command
    assert environment(launch) == {"MOEASH_STORAGE": OPEN}


@pytest.mark.parametrize(
    "storage",
    [SECRET, "postgresql+psycopg://db/studies?user=me&password=s3cret"],
)
def test_a_password_is_refused_and_the_way_out_named(spec, storage):
    with pytest.raises(InputError, match=r"has a password.*MOEASH_STORAGE.*PGPASSFILE") as caught:
        launch_of(spec, storage=storage)
    assert "s3cret" not in str(caught.value)


def test_a_password_of_this_machines_own_environment_is_not_sent(spec, monkeypatch):
    monkeypatch.setenv("MOEASH_STORAGE", SECRET)
    launch = launch_of(spec, storage=SECRET)
    assert environment(launch) == {}
    assert "s3cret" not in entrypoint(launch) and "me:" not in entrypoint(launch)


@pytest.mark.parametrize(
    ("on_head", "code", "said"),
    [
        (SECRET, 0, "-m moeash run spec.toml"),
        ("postgresql+psycopg://other:name@db/studies", 0, "-m moeash run spec.toml"),
        ("postgresql+psycopg://me:s3cret@elsewhere/studies", 2, "another database than db/studies"),
        ("", 127, "MOEASH_STORAGE: set it in the environment of the head node"),
        (None, 127, "MOEASH_STORAGE: set it in the environment of the head node"),
    ],
)
def test_a_job_takes_the_heads_own_storage_or_ends_at_once(
    on_head, code, said, tmp_path, monkeypatch
):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho $@\n")
    python.chmod(0o755)
    head = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    if on_head is not None:
        head["MOEASH_STORAGE"] = on_head
    done = run(entrypoint(Launch("digits", SPEC, storage=SECRET)), head)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout
    assert "s3cret" not in done.stdout
    anywhere = run(entrypoint(Launch("digits", SPEC)), head)
    assert anywhere.returncode == (0 if on_head else 127)


def run(command, environment):
    """Run a job's command as Ray does."""
    shell = shutil.which("bash")
    return subprocess.run(
        command,
        shell=True,
        executable=shell,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize(
    ("settings", "storage", "message"),
    [
        ([], "studies.db", "is a relative path, which means another file on the cluster"),
        (['data.root="pictures"'], OPEN, "data.root = 'pictures' is relative"),
        (['network.checkpoint="a.pt"'], OPEN, "network.checkpoint = 'a.pt' is relative"),
        (
            [
                'method={name="wfn", start="a.moeash"}',
                'data.splits.train={part="all", rest=true}',
            ],
            OPEN,
            "method.start = 'a.moeash' is relative",
        ),
    ],
)
def test_what_means_something_else_on_the_cluster_is_refused(spec, settings, storage, message):
    with pytest.raises(InputError, match=message):
        launch_of(spec, settings, storage=storage)


def test_a_spec_that_is_wrong_never_leaves_this_machine(spec):
    with pytest.raises(SpecError, match="serch"):
        launch_of(spec, ["serch.population=4"], storage=OPEN)


def test_an_address_that_is_no_dashboard_is_refused():
    with pytest.raises(InputError, match="'head:6379' is not the URL of a dashboard"):
        RayJobs("head:6379")


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("pending", False),
        ("running", False),
        ("stopped", True),
        ("succeeded", True),
        ("failed", True),
    ],
)
def test_only_what_waits_or_runs_may_still_do_something(name, ended):
    assert State(name).ended is ended


class Head(BaseHTTPRequestHandler):
    """Ray's Jobs API as it answers while the head's agent has not come up yet."""

    refusals: ClassVar[list[str]] = []
    """Texts of the next answers 500."""
    submitted: ClassVar[list[dict]] = []
    state: ClassVar[str] = "PENDING"
    """Of all jobs."""

    def do_GET(self):
        if self.path == "/api/version":
            self._answer(200, {"version": "4", "ray_version": "2.9.0", "ray_commit": ""})
        elif self.path == "/api/jobs/":
            self._answer(200, [self._details(job["submission_id"]) for job in self.submitted])
        else:
            self._answer(200, {})

    def _details(self, name):
        times = {"start_time": 1, "end_time": 2}
        return {"type": "SUBMISSION", "status": self.state, "entrypoint": "", "message": ""} | {
            "job_id": None, "submission_id": name, "metadata": {}, "runtime_env": {}, **times
        }  # fmt: skip

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.refusals:
            self._answer(500, self.refusals.pop(0))
            return
        self.submitted.append(asked)
        name = asked["submission_id"]
        self._answer(200, {"job_id": name, "submission_id": name})

    def _answer(self, code, document):
        self.send_response(code)
        self.end_headers()
        text = document if isinstance(document, str) else json.dumps(document)
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def head():
    Head.refusals, Head.submitted, Head.state = [], [], "PENDING"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Head)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_head_that_cannot_start_jobs_yet_is_waited_for_and_not_for_ever(head, monkeypatch):
    away = "No available agent to submit job, please try again later.."
    launch = Launch("digits", SPEC, storage=OPEN)
    Head.refusals += [away, away]
    assert RayJobs(head).start(launch)
    assert [job["submission_id"] for job in Head.submitted] == ["moeash-digits"]
    Head.state = "STOPPED"
    Head.refusals += ["something else"]
    with pytest.raises(BackendError, match="something else"):
        RayJobs(head).start(launch)
    monkeypatch.setattr(ray_jobs, "AGENT_WAIT_S", 0.5)
    Head.refusals += [away] * 1000
    with pytest.raises(BackendError, match="No available agent"):
        RayJobs(head).start(launch)
    assert len(Head.submitted) == 1


@pytest.mark.slow
def test_a_job_that_waits_is_not_started_twice_and_no_name_is_used_twice(head):
    jobs = RayJobs(head)
    other = "digits.2", "digits-2", "digit"
    for name in other:
        assert jobs.start(Launch(name, SPEC, storage=OPEN))
    assert jobs.job("digits") is None
    launch = Launch("digits", SPEC, storage=OPEN)
    assert jobs.start(launch)
    assert not jobs.start(launch)
    Head.state = "STOPPED"
    for run in range(2, 12):
        assert jobs.start(launch)
        assert jobs.job("digits").name == Head.submitted[-1]["submission_id"]
        assert jobs.job("digits").run == run
    names = [job["submission_id"] for job in Head.submitted]
    assert names[-2:] == ["moeash-digits@10", "moeash-digits@11"]
    assert len(set(names)) == len(names) == 14
