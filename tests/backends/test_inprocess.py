import pytest

from moeash.backends.inprocess import InProcessBackend
from tests.contracts.backend import BackendContract


class TestInProcess(BackendContract):
    @pytest.fixture
    def make_backend(self):
        return InProcessBackend

    def test_closing_an_unopened_backend_is_harmless(self, make_backend):
        make_backend(None).close()
