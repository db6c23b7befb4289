"""No test depends on which ran before: draws from global states are the same for each."""

import random

import numpy as np
import pytest
import torch

from tests.ports import free_port


def drawn():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


@pytest.fixture(scope="module")
def early():
    return drawn()


@pytest.fixture
def own():
    return drawn()


@pytest.mark.parametrize("before", [0, 1, 2])
def test_every_test_and_every_fixture_of_a_module_begins_with_the_same_numbers(before, early, own):
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    first, second = drawn(), drawn()
    assert (early, own) == (first, first)
    assert first != second
    for _ in range(before):
        drawn()


def test_what_a_test_draws_follows_what_its_fixtures_drew(own):
    assert own != drawn()


def test_ports_differ_between_workers_that_are_seeded_alike():
    told = set()
    for _ in range(4):
        random.seed(0)
        told.add(free_port())
    assert len(told) > 1
