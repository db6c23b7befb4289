import pytest

from moeash.study.storage.sql import SqlStorage
from tests.contracts.listing import ListingContract


class TestListing(ListingContract):
    @pytest.fixture
    def storage(self, tmp_path):
        storage = SqlStorage(str(tmp_path / "a.db"))
        yield storage
        storage.close()
