import pytest

from tests.contracts.method import digits_network, digits_splits


@pytest.fixture(scope="module")
def network():
    return digits_network()


@pytest.fixture(scope="module")
def splits():
    return digits_splits()
