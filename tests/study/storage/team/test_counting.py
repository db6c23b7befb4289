import pytest

from moeash.study.storage.sql import SqlStorage
from tests.contracts.counting import CountingContract


class TestCounting(CountingContract):
    @pytest.fixture
    def storage(self, tmp_path):
        storage = SqlStorage(tmp_path / "a.db")
        yield storage
        storage.close()
