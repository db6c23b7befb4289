"""A small solution to train: the digits network on 24 bins, and its images."""

import pytest

from moeash.core.solutions.candidate import Candidate
from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.methods.registry import build_method
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.uniform.options import UniformOptions
from tests.contracts.method import digits_network, prepare

SPLITS = {"search": {"count": 300}, "train": {"rest": True}}


@pytest.fixture(scope="session")
def splits():
    return draw_splits(load_source("digits"), SPLITS)


@pytest.fixture(scope="session")
def network():
    return digits_network()


@pytest.fixture(scope="session")
def solution(network, splits):
    method = build_method(UniformOptions(k=(2, 64)))
    return method.compress(
        prepare(method, network, splits), Candidate.of({"k": 24}), network=network
    )


@pytest.fixture
def session(splits):
    """Return a function that makes a session on the digits."""

    def make(options=None, **changes):
        return Session(splits["train"], options or TrainingOptions(batch_size=64), 5, **changes)

    return make
