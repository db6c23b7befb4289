"""A cluster of several nodes, driven by the command line as a person would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moeash.backends import ray_settings
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study
from moeash.study.summary import summary_of
from tests.backends.cluster import PATIENCE_S, ROOT, Cluster, Node, wait_until
from tests.backends.studies import sequence, spec, toml
from tests.forks import MOEASH, Fork

pytestmark = [pytest.mark.ray, pytest.mark.slow]


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


SLOW = {"evaluation__metric": "tests.backends.slow:slow_top1", "merge__trials": 3}


@pytest.fixture(scope="module")
def serial(tmp_path_factory, environment):
    """The reference: the same study, in one process of its own."""
    folder = tmp_path_factory.mktemp("serial")
    Path(environment["MOEASH_TEST_SLOW_FILE"]).write_text("0")
    return run(folder, environment, "--backend", "inprocess")


def start(folder, environment, *arguments, command="run", netns=None):
    path = folder / "spec.toml"
    path.write_text(toml(spec(**SLOW)))
    environment = environment | {"MOEASH_STORAGE": str(folder / "a.db")}
    return Fork(MOEASH, command, path, *arguments, cwd=folder, env=environment, netns=netns)


def run(folder, environment, *arguments):
    process = start(folder, environment, *arguments)
    finish(process)
    return stored(folder)


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, out + err


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
    wait_until(lambda: count(tmp_path) >= 5)
    first.kill()
    first.communicate()
    slow(0)
    n = count(tmp_path)
    assert 5 <= n < len(serial.evaluations())
    assert sequence(run(tmp_path, environment, *on(cluster, 1))) == sequence(serial)


def test_a_node_that_joins_is_used_and_one_that_dies_costs_nothing(
    cluster, environment, serial, slow, tmp_path
):
    slow(0.2)
    process = start(tmp_path, environment, *on(cluster, 2))  # room for one worker as yet
    wait_until(lambda: count(tmp_path) >= 2)
    slow(2.0)  # so that the study lasts until the node has joined
    node = cluster.add_node()
    wait_until(lambda: summary_of(stored(tmp_path))["workers"] == 2)
    slow(0.5)
    n = count(tmp_path)
    wait_until(lambda: count(tmp_path) >= n + 2)
    node.kill()
    slow(0)
    finish(process)
    assert sequence(stored(tmp_path)) == sequence(serial)


def test_a_job_is_launched_once_followed_stopped_and_continued(
    cluster, environment, serial, slow, tmp_path
):
    slow(1.5)
    address = ("--address", cluster.dashboard)

    def moeash(*arguments, code=0):
        where = environment | {"MOEASH_STORAGE": str(tmp_path / "a.db")}
        process = Fork(MOEASH, *arguments, cwd=tmp_path, env=where)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == code, out + err
        return out if code == 0 else err

    path = tmp_path / "spec.toml"
    path.write_text(toml(spec(**SLOW)))
    wait_until(lambda: "no job" in moeash("logs", "digits", *address, code=2))
    command = ("launch", str(path), *address, "--set", "backend.workers=1")
    assert "started as job moeash-digits" in moeash(*command)
    slow(0.2)
    wait_until(lambda: count(tmp_path) >= 3)
    slow(1.5)  # so that the study lasts until it has been stopped
    assert "already running as job moeash-digits" in moeash(*command)
    status = json.loads(moeash("status", "digits", "--json"))
    assert (status["status"], status["workers"], status["failed"]) == ("running", 1, 0)
    assert status["evaluations_per_minute"] > 0
    assert "study digits: stopped" in moeash("stop", "digits", *address)
    wait_until(lambda: stored(tmp_path).status == "interrupted")
    n = count(tmp_path)
    assert n < len(serial.evaluations())
    slow(0)
    again = moeash(*command, "--follow")  # at once, while Ray still watches the stopped job
    assert "started as job moeash-digits@2" in again and "front of digits" in again
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
        process = Fork(MOEASH, *arguments, cwd=tmp_path, env=other)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 1
        line = err.strip().splitlines()[-1]
        assert line.startswith("moeash: ") and "token" in line, err


# ------------------------------------------------------------------ two machines, as namespaces

HEAD_IP, FAR_IP = "10.99.0.1", "10.99.0.2"


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def two_machines(loopback_only):
    """Two network namespaces joined by one cable; their names."""
    near, far = f"near{os.getpid()}", f"far{os.getpid()}"
    try:
        ip("netns", "add", near)
        ip("netns", "add", far)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        subprocess.run(["ip", "netns", "del", near], capture_output=True)
        reason = getattr(error, "stderr", b"").decode().strip() or error
        pytest.skip(f"network namespaces are not allowed here: {reason}")
    try:
        ip("link", "add", "cable0", "netns", near, "type", "veth", "peer", "cable1", "netns", far)
        for name, device, address in ((near, "cable0", HEAD_IP), (far, "cable1", FAR_IP)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", device, "up")
        yield near, far
    finally:
        ip("netns", "del", near)
        ip("netns", "del", far)


def test_a_partition_costs_nothing_but_time(
    two_machines, environment, serial, slow, tmp_path_factory
):
    tmp_path = tmp_path_factory.mktemp("partition")
    near, far = two_machines
    inside = {name: ("ip", "netns", "exec", name) for name in two_machines}
    small = ["--num-cpus=1", "--num-gpus=0", "--object-store-memory=134217728"]
    first = ["--head", "--port=6399", "--include-dashboard=false"]
    head = Node(
        [*first, f"--node-ip-address={HEAD_IP}", *small],
        environment,
        inside[near],
    )
    nodes = [head]
    try:
        wait_until(lambda: head.check() or "started" in (head.folder / "log").read_text())
        nodes.append(
            Node(
                [f"--address={HEAD_IP}:6399", f"--node-ip-address={FAR_IP}", *small],
                environment,
                inside[far],
            )
        )
        slow(2.0)
        arguments = ("--backend", "ray", "--address", f"{HEAD_IP}:6399", "--workers", "2")
        process = start(tmp_path, environment, *arguments, netns=near)
        wait_until(lambda: count(tmp_path) and summary_of(stored(tmp_path))["workers"] == 2)
        ip("-n", near, "link", "set", "cable0", "down")
        slow(0)
        finish(process)
        assert sequence(stored(tmp_path)) == sequence(serial)
    finally:
        for node in reversed(nodes):
            node.kill()
