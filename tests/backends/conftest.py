"""Ray for tests: in a network namespace with nothing but loopback, where that is permitted."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000


def interfaces():
    return {path.name for path in Path("/sys/class/net").iterdir()}


def leave_the_network():
    """Move this process, and what it starts, where only loopback exists; False if forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return False
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    return True


@pytest.fixture(scope="session")
def loopback_only():
    """Nothing a Ray test does can leave the machine; where forbidden, only our settings say so."""
    if subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout.count("\n") > 1:
        leave_the_network()


@pytest.fixture(scope="session")
def ray_environment(loopback_only, tmp_path_factory):
    """What Ray's own processes need, set before any of them starts."""
    before = dict(os.environ)
    from moeash.backends import ray_settings

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ.update(ray_settings.FAST_DETECTION)
    ray_settings.prepare(None)
    root = Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = f"{root}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    yield
    os.environ.clear()
    os.environ.update(before)
