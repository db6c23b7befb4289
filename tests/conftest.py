"""What every test may ask for."""

import os
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
