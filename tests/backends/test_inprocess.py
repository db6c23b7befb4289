import pytest

from moeash.backends.inprocess import InProcessBackend
from tests.contracts.backend import NOTHING, BackendContract, jobs


class TestInProcess(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make_backend(cls):
        return InProcessBackend

    def test_closing_an_unopened_backend_is_harmless(self, make_backend):
        make_backend(None).close()

    def test_an_evaluation_tells_how_far_it_is(self, backend):
        self.told.clear()
        backend.submit(jobs(8)[0], NOTHING)
        backend.next()
        assert self.told == [("measuring batches", n, 5) for n in range(5)]
