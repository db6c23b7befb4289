"""What every test may ask for."""

import collections
import ctypes
import gc
import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.contracts")

# Tests start hundreds of interpreters, and none should compile this package again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many workers as cores: more threads in each would only wait for one another. Before NumPy
    # and torch are imported, which read it once.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What asks for as many threads as cores by itself has them wait without a core. Spinning, as is
    # the default, some tests of three workers on two cores took ten times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Ray's workers are niced by 15 unless told otherwise: beside whatever else runs, they get next to
# nothing, every Ray test takes several times as long, and benchmarks seem to idle.
os.environ.setdefault("RAY_worker_niceness", "0")

# Who starts the tests under nohup has a hang-up ignored, and so has every process they start, in
# which some look at what it does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Until the tests are collected, next to nothing of what is made is let go.
gc.disable()

# How long one example takes says how busy the machine is, not what is wrong.
settings.register_profile(
    "no deadline", deadline=None, derandomize="MOEASH_EXPLORE" not in os.environ
)
settings.load_profile("no deadline")

NEEDS = {
    "ray": ("ray", "Ray is not installed; pip install -e '.[test]'"),
    "postgres": ("psycopg", "psycopg is not installed; pip install -e '.[test]'"),
    "browser": ("playwright", "Playwright is not installed; pip install -e '.[test]'"),
}
"""What a marked test needs that may be missing here, and how to get it."""

NEEDS_COMMAND = {"browser": ("chromium", "chromium is not installed; apt-get install chromium")}

NOT_QUICK = ("slow", "ray", "postgres", "gpu", "realdata", "browser", "benchmark")


IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 << 30
"""What must be free there: a run needs a quarter of it, and Ray's stores are there, too."""


def has_room(folder: Path) -> bool:
    """Tell whether the files of a run fit in a folder in memory, and programs may run there."""
    if not os.access(folder, os.W_OK):
        return False
    found = os.statvfs(folder)
    lines = Path("/proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if "MemAvailable" in line)
    room = min(available, found.f_bavail * found.f_frsize)
    return room >= ROOM_BYTES and not found.f_flag & os.ST_NOEXEC


def pytest_configure(config: pytest.Config) -> None:
    """Have temporary folders in memory: commits, thousands of them, would wait for the disk.

    What dies in these tests is processes, not machines. Benchmarks store as people do.
    """
    if config.option.markexpr != "benchmark" and has_room(IN_MEMORY):
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(IN_MEMORY))


RAY, BROWSER = "ray", "browser"


def together(nodeid: str) -> str:
    """Return what a test is of that runs in one worker: a file, the tests of Ray, of the browser.

    A Ray takes every core, and two starve each other. The tests in a browser share one. What the
    tests of a file share is then made once.
    """
    file = nodeid.partition("::")[0]
    folder, _, name = file.rpartition("/")
    if folder.endswith("service/browser"):
        return BROWSER
    return RAY if folder.endswith("backends") and name.startswith("test_ray") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal tests out by what they are together in, in the order of their collection.

    Not by xdist_group: pytest-xdist 3.8 tells its scheduler of groups through an attribute that
    pytest 9.2 no longer has.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

    config.option.loadscopereorder = False
    return Together(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One worker a core, and one that mostly waits for Ray's processes where those run."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist takes it
    return len(os.sched_getaffinity(0)) + (config.option.markexpr != "quick")


POLITE = 10
"""Niceness of workers that run anything but the tests of Ray."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> None:
    """Let the tests of Ray go first: one after the other they take as long as all others together.

    They mostly wait, and what they wait for are processes that are to get a core when they need it.
    """
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    if is_worker and together(item.nodeid) != RAY and os.nice(0) < POLITE:
        os.nice(POLITE - os.nice(0))


def weight(item: pytest.Item) -> float:
    """Return how long a test takes, about, in fiftieths of a second."""
    if item.get_closest_marker("quick"):
        return 1
    slow = item.get_closest_marker("slow")
    return 50 * (slow.kwargs.get("seconds", 1) if slow else 1)


def longest_first(items: list[pytest.Item]) -> None:
    """Have what takes long begin early, so that no worker is alone with it at the end."""
    weights: collections.Counter[str] = collections.Counter()
    for item in items:
        weights[together(item.nodeid)] += weight(item)
    weights[RAY] += 1_000_000
    items.sort(key=lambda item: -weights[together(item.nodeid)])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what the installed packages cannot run; mark what is quick."""
    for item in items:
        if not any(item.get_closest_marker(name) for name in NOT_QUICK):
            item.add_marker(pytest.mark.quick)
    if "PYTEST_XDIST_WORKER" in os.environ:
        longest_first(items)
    missing = [
        *((m, why) for m, (name, why) in NEEDS.items() if importlib.util.find_spec(name) is None),
        *((m, why) for m, (name, why) in NEEDS_COMMAND.items() if shutil.which(name) is None),
    ]
    for marker, reason in missing:
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no benchmark where none is wanted; whoever names them is told they are deselected."""
    wanted = config.option.markexpr not in ("not benchmark", "quick") or any(
        "benchmarks" in argument for argument in config.args
    )
    folder = Path(__file__).parent / "benchmarks"
    return True if collection_path == folder and not wanted else None


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: it stays, and is a million objects to walk."""
    gc.freeze()
    gc.enable()


def seed() -> None:
    """Have every draw from a global state be the same in every run, whatever ran before.

    Nothing is imported for it: what has not been imported has no state that anybody drew from.
    """
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed what a test and its own fixtures draw."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Seed what fixtures of many tests draw, which are made in front of those of one."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real networks and images, or a skip that says where it was looked for."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MOEASH_DATA", default))
    if not (folder / "models").is_dir():
        pytest.skip(f"no real networks in {folder}; set MOEASH_DATA")
    return folder


CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="session")
def loopback_only() -> None:
    """Move this process, and what it starts, where nothing but loopback exists.

    What Ray's processes try to reach (see moeash/backends/ray_settings.py) then cannot leave the
    machine. Where that is forbidden the settings alone say so.
    """
    alone = len(socket.if_nameindex()) == 1
    if not alone and shutil.which("ip") and ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


TINY = """
name = "tiny"
[network]
source = "digits-cnn"
[data]
source = "digits"
[data.splits]
search = { part = "all", range = [0, 60] }
holdout = { part = "all", range = [60, 160] }
[evaluation]
batch_size = 30
threads = 1
[method]
k = [6, 16]
[search]
algorithm = "exhaustive"
population = 4
[merge]
trials = 2
[output]
folder = "results"
"""
"""A study of a real network that takes a second."""


@dataclass(frozen=True)
class TinyStudy:
    """A finished study: its folder holds tiny.toml, moeash.db and results/."""

    folder: Path

    @property
    def spec(self) -> Path:
        return self.folder / "tiny.toml"

    @property
    def storage(self) -> str:
        return str(self.folder / "moeash.db")

    @property
    def file(self) -> Path:
        return self.folder / "results" / "tiny.moeash"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> TinyStudy:
    """A finished study with its output, to be read and never changed."""
    from moeash.api.studies import run_with_output
    from moeash.study.spec.reading import load_spec

    study = TinyStudy(tmp_path_factory.mktemp("tiny"))
    study.spec.write_text(TINY)
    spec = load_spec(study.spec, [f'output.folder="{study.folder / "results"}"'])
    run_with_output(spec, storage=study.storage)
    return study


@pytest.fixture
def bare(tmp_path_factory):
    """The spec of the tiny study without its output, whose pictures take longer than the study."""
    path = tmp_path_factory.mktemp("bare") / "tiny.toml"
    path.write_text(TINY[: TINY.index("[output]")])
    return path


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def moeash(monkeypatch, capsys, tmp_path) -> Callable[..., Answer]:
    """The command line, in this process and in an empty folder."""
    from moeash.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["moeash", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(ended.value.code, out, err)

    return call
