"""Ray for tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_environment(loopback_only, tmp_path_factory):
    """What Ray's own processes need, set before any of them starts."""
    before = dict(os.environ)
    from moeash.backends import ray_settings

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ.update(ray_settings.FAST_DETECTION)
    slow = tmp_path_factory.mktemp("slow") / "seconds"
    slow.write_text("0")
    os.environ["MOEASH_TEST_SLOW_FILE"] = str(slow)
    ray_settings.prepare(None)
    root = Path(__file__).parents[2]
    os.environ["PYTHONPATH"] = f"{root}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")
    yield
    os.environ.clear()
    os.environ.update(before)
