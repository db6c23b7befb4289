"""What every test may ask for."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.contracts")


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
    links = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    if links.stdout.count("\n") > 1 and ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
