"""A Ray of a study's own: started, closed to everybody else, and gone afterwards."""

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from moeash.backends import ray_settings
from moeash.backends.last_words import LAST_WORDS
from moeash.backends.options import BackendOptions
from moeash.backends.ray import RayBackend
from moeash.errors import StorageError
from moeash.study.spec.reading import parse_spec
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study
from tests.backends.cluster import PATIENCE_S, ROOT, wait_until
from tests.backends.studies import spec, toml
from tests.forks import MOEASH, Fork

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),
]

METADATA = "169.254.169.254"
"""Where every cloud answers what machine this is."""


@pytest.fixture
def metadata_service(loopback_only):
    """The list of what a made-up cloud was asked, in a network that has nothing else."""
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    if links.stdout.count("\n") > 1:
        pytest.skip("this process is not alone in its network, and would answer others")
    subprocess.run(["ip", "addr", "add", f"{METADATA}/32", "dev", "lo"], check=True)
    asked = []
    server = socket.create_server((METADATA, 80))

    def serve():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(200))

    thread = threading.Thread(target=serve)
    thread.start()
    yield asked
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
    subprocess.run(["ip", "addr", "del", f"{METADATA}/32", "dev", "lo"], check=True)


def test_nobody_asks_for_a_cloud_and_workers_are_at_home(
    metadata_service, ray_environment, monkeypatch, tmp_path
):
    import ray

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYTHONUSERBASE", raising=False)
    made = []
    monkeypatch.setattr(ray_settings, "OwnHome", recording(ray_settings.OwnHome, made))
    task = replace(parse_spec(spec()).task(), n_threads=1)
    backend = RayBackend(task, BackendOptions("ray", workers=1))
    try:
        backend.open()
        (home,) = backend.crew.ask(lambda worker: os.environ["HOME"])
        assert home == os.environ["HOME"] == str(tmp_path)
        assert "PYTHONUSERBASE" not in os.environ
        (own,) = made
        log = Path(ray._private.worker._global_node.get_logs_dir_path(), "dashboard.log")
        wait_until(lambda: "Usage reporting is disabled" in log.read_text())
    finally:
        backend.close()
    # The dashboard's process has passed the place where it asks.
    assert metadata_service == []
    assert not Path(own.folder).exists() and not list(tmp_path.iterdir())
    assert not ray.is_initialized()


def recording(kind, made):
    def make():
        made.append(kind())
        return made[-1]

    return make


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_study_on_a_ray_of_its_own_that_is_told_to_end_says_so_in_one_line(
    number, loopback_only, tmp_path
):
    with running(tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, out + err
    said = [line for line in err.splitlines() if line.startswith("moeash: ")]
    assert said == [
        "moeash: interrupted; everything evaluated is stored, run the same command to continue"
    ]
    for word in ("Traceback", "Stack trace", "SIGABRT", "Check failed"):
        assert word not in err
    study = Study(SqlStorage(str(tmp_path / "a.db")), "digits")
    assert study.record.status == "interrupted"


@contextmanager
def running(tmp_path):
    """A slow study on a Ray of its own, with three evaluations stored."""
    slow = tmp_path / "seconds"
    slow.write_text("0.1")
    plain = spec(evaluation__metric="tests.backends.slow:slow_top1", merge={"trials": 0})
    (tmp_path / "spec.toml").write_text(toml(plain))
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MOEASH_STORAGE": str(tmp_path / "a.db"),
        "MOEASH_TEST_SLOW_FILE": str(slow),
    }
    with Fork(MOEASH, "run", "spec.toml", "--workers", "1", cwd=tmp_path, env=environ) as process:
        wait_until(lambda: has_ended(process) or evaluated(tmp_path / "a.db") >= 3)
        yield process


def has_ended(process):
    return process.returncode is not None


def test_a_study_goes_on_when_the_raylet_of_its_ray_is_killed_and_is_told_of_a_second_time(
    loopback_only, tmp_path
):
    with running(tmp_path) as process:
        kill_raylet(process)
        n_before = evaluated(tmp_path / "a.db")
        enough = n_before + 2
        wait_until(lambda: has_ended(process) or evaluated(tmp_path / "a.db") >= enough)
        if not has_ended(process):
            kill_raylet(process)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    gone = "the Ray on this machine is gone: its raylet died (killed, out of memory, or stopped by "
    said = [line for line in err.splitlines() if line.startswith(("moeash: ", f"note: {gone}"))]
    again = f"note: {gone}somebody); another one is started, and what was under way begins again"
    end = f"moeash: {gone}somebody); everything evaluated is stored, run the same command to"
    study = Study(SqlStorage(str(tmp_path / "a.db")), "digits")
    if said[-1] == LAST_WORDS:
        # Ray ended the process from native code: before it could be asked about its raylet, or
        # after the study had noted why it ends, while Ray was shut down.
        assert said[:-1] in ([], [again])
        assert study.status in ("crashed", "interrupted")
    else:
        assert said == [again, f"{end} continue"]
        assert study.status == "interrupted"
        assert "its raylet died" in study.record.reason
        assert len(study.evaluations()) > n_before
    stored = study.evaluations()
    assert all(e.outcome.status != "failed" for e in stored)
    assert len({str(e.recipe) for e in stored}) == len(stored) >= 3


@pytest.mark.parametrize(
    ("end", "said"),
    [("words.close()", ""), ("os._exit(1)", LAST_WORDS), ("os.kill(os.getpid(), 9)", LAST_WORDS)],
)
def test_a_process_that_ends_without_a_word_has_last_words(end, said):
    code = "import os; from moeash.backends.last_words import LastWords; words = LastWords(); "
    ended = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True)
    assert ended.stderr.strip() == said


def kill_raylet(process):
    found = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid=,comm="], capture_output=True, text=True
    ).stdout
    (raylet,) = (line.split()[0] for line in found.splitlines() if line.endswith("raylet"))
    os.kill(int(raylet), signal.SIGKILL)


def test_workers_find_a_users_code_where_the_driver_does_and_outlive_its_exits(
    loopback_only, tmp_path
):
    (tmp_path / "torch.py").write_text("open('RAN', 'w')\n")
    (tmp_path / "numpy.py").write_text("open('RAN', 'w')\n")
    (tmp_path / "mine.py").write_text(
        "import sys\ncalls = []\n"
        "def score(outputs, labels):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 4: sys.exit(0)\n"
        "    return (outputs.argmax(1) == labels).float()\n"
    )
    (tmp_path / "spec.toml").write_text(toml(spec(evaluation__metric="mine:score")))
    script = tmp_path / "bin" / "moeash"
    script.parent.mkdir()
    script.write_text("from moeash.cli.main import main\nmain()\n")
    answer = subprocess.run(
        [sys.executable, script, "run", "spec.toml", "--workers", "1", "--set", "merge.trials=0"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOEASH_STORAGE": str(tmp_path / "a.db")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "RAN").exists()
    study = Study(SqlStorage(str(tmp_path / "a.db")), "digits")
    errors = [e.outcome.error for e in study.evaluations() if e.outcome.status == "failed"]
    assert len(errors) == 1
    assert "the user's code raised SystemExit: 0" in errors[0] and "mine.py" in errors[0]


def evaluated(path):
    try:
        return len(Study(SqlStorage(str(path)), "digits").evaluations())
    except StorageError:
        return 0
