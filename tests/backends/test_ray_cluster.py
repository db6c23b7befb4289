"""A cluster of several nodes, driven by the command line as a person would."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moeash.backends import ray_settings
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study
from tests.backends.cluster import ROOT, Cluster, wait_until
from tests.backends.studies import sequence, spec

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def toml(plain, prefix=""):
    """Write the plain values that specs are made of as TOML."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in plain.items() if not isinstance(v, dict)]
    for key, value in plain.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", *toml(value, f"{prefix}{key}.").splitlines()]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def environment(loopback_only, tmp_path_factory):
    """Token mode, with a token nobody else knows, and a slow metric."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    return {
        **os.environ,
        **ray_settings.QUIET,
        **ray_settings.FAST_DETECTION,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "MOEASH_TEST_SLOW_FILE": str(token.with_name("slow")),
    }


@pytest.fixture(autouse=True)
def slow(environment):
    """Seconds a batch takes, from now on, everywhere."""

    def slow(seconds):
        Path(environment["MOEASH_TEST_SLOW_FILE"]).write_text(str(seconds))

    slow(0.02)
    return slow


@pytest.fixture(scope="module")
def cluster(environment):
    cluster = Cluster(environment, dashboard=True)
    yield cluster
    cluster.close()


SLOW = {"evaluation__metric": "tests.backends.slow:slow_top1", "merge__max_trials": 3}


@pytest.fixture(scope="module")
def serial(tmp_path_factory, environment):
    """The reference: the same study, in one process of its own."""
    folder = tmp_path_factory.mktemp("serial")
    Path(environment["MOEASH_TEST_SLOW_FILE"]).write_text("0")
    return run(folder, environment, "--backend", "inprocess")


def start(folder, environment, *arguments, command="run"):
    path = folder / "spec.toml"
    path.write_text(toml(spec(**SLOW)))
    return subprocess.Popen(
        [sys.executable, "-m", "moeash.cli.main", command, str(path), *arguments],
        env=environment | {"MOEASH_STORAGE": str(folder / "a.db")},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder, environment, *arguments):
    process = start(folder, environment, *arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return stored(folder)


def stored(folder):
    return Study(SqlStorage(str(folder / "a.db")), "digits")


def count(folder):
    try:
        return len(stored(folder).evaluations())
    except Exception:
        return 0


def on(cluster, workers=2):
    return "--backend", "ray", "--address", cluster.address, "--workers", str(workers)


def test_a_killed_driver_leaves_a_study_that_continues_on_the_same_cluster(
    cluster, environment, serial, slow, tmp_path
):
    slow(0.2)
    first = start(tmp_path, environment, *on(cluster, 1))
    wait_until(lambda: count(tmp_path) >= 5, 120)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    slow(0)
    n = count(tmp_path)
    assert 5 <= n < len(serial.evaluations())
    assert sequence(run(tmp_path, environment, *on(cluster, 1))) == sequence(serial)


def test_a_node_that_joins_is_used_and_one_that_dies_costs_nothing(
    cluster, environment, serial, slow, tmp_path
):
    slow(0.5)
    process = start(tmp_path, environment, *on(cluster, 2))  # room for one worker as yet
    wait_until(lambda: count(tmp_path) >= 2, 120)
    node = cluster.add_node()
    wait_until(lambda: stored(tmp_path).record.workers == 2, 60)
    n = count(tmp_path)
    wait_until(lambda: count(tmp_path) >= n + 2, 60)
    node.kill()
    slow(0)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert sequence(stored(tmp_path)) == sequence(serial)


def test_a_job_is_submitted_once_followed_stopped_and_continued(
    cluster, environment, serial, slow, tmp_path
):
    slow(0.3)
    address = ("--address", cluster.dashboard)

    def moeash(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "moeash.cli.main", *arguments],
            env=environment | {"MOEASH_STORAGE": str(tmp_path / "a.db")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if code == 0 else done.stderr

    path = tmp_path / "spec.toml"
    path.write_text(toml(spec(**SLOW)))
    wait_until(lambda: "no job" in moeash("logs", "digits", *address, code=2), 60)
    command = ("submit", str(path), *address, "--set", "backend.workers=1")
    assert "submitted as job moeash-digits" in moeash(*command)
    assert "already running as job moeash-digits" in moeash(*command)
    wait_until(lambda: count(tmp_path) >= 3, 120)
    status = json.loads(moeash("status", "digits", "--json"))
    assert (status["status"], status["workers"], status["failed"]) == ("running", 1, 0)
    assert status["evaluations_per_minute"] > 0
    assert "study digits: stopped" in moeash("stop", "digits", *address)
    wait_until(lambda: stored(tmp_path).record.status == "interrupted", 10)
    n = count(tmp_path)
    assert n < len(serial.evaluations())
    slow(0)
    assert "front of digits" in moeash(*command, "--follow")
    assert "front of digits" in moeash("logs", "digits", *address)
    assert sequence(stored(tmp_path)) == sequence(serial)


def test_without_the_token_a_cluster_is_closed(cluster, environment, tmp_path):
    (tmp_path / "spec.toml").write_text(toml(spec()))
    other = environment | {"HOME": str(tmp_path)}
    del other["RAY_AUTH_TOKEN_PATH"], other["RAY_AUTH_MODE"]
    for arguments in (
        ("run", "spec.toml", *on(cluster)),
        ("logs", "digits", "--address", cluster.dashboard),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "moeash.cli.main", *arguments],
            env=other,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 1
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith("moeash: ") and "token" in line, done.stderr


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray answers at 127.0.0.1:9"),
        ("nowhere", "is not auto and not HOST:PORT"),
        ("ray://127.0.0.1:10001", "is a URL; give HOST:PORT"),
        ("auto", "no Ray|cannot connect"),
    ],
)
def test_a_wrong_address_is_one_line_within_seconds(environment, tmp_path, address, message):
    import re

    (tmp_path / "spec.toml").write_text(toml(spec()))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "moeash.cli.main", "run", "spec.toml", "--address", address],
        env=environment | {"RAY_TMPDIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert re.search(message, done.stderr.strip().splitlines()[-1]), done.stderr
    assert time.monotonic() - started < 60
