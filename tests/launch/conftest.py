"""Launchers of a test's own, and the end of what they started."""

import pytest

from moeash.launch.process import Processes
from tests.databases import stored_at


@pytest.fixture
def database(tmp_path):
    storage = stored_at(tmp_path / "a.db")
    yield storage.database
    storage.close()


@pytest.fixture
def processes(database, tmp_path):
    """Makes launchers of this process, and ends what they started."""
    made = []

    def make(command, **options):
        made.append(Processes(database, tmp_path / "files", command=command, **options))
        return made[-1]

    yield make
    for own in made:
        for child in own.children.values():
            child.kill()
            child.wait()
