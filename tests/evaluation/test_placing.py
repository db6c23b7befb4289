from collections import Counter
from dataclasses import dataclass, field

import pytest

from moeash.core.kept import Keeping
from moeash.core.recipe import Merge, Recipe
from moeash.evaluation.outcome import Job
from moeash.evaluation.placing import Builder
from moeash.methods.base import Preparation
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from moeash.networks.sources import load_network


@dataclass(frozen=True)
class Counting(Uniform):
    """The real method, which also counts what it compresses."""

    compressed: Counter = field(default_factory=Counter)

    def compress(self, prepared, candidate, **way):
        self.compressed[candidate] += 1
        return super().compress(prepared, candidate, **way)


@pytest.fixture
def method():
    return Counting(UniformOptions(k=(2, 64)))


@pytest.fixture
def builder(method):
    module = load_network("digits-cnn")
    network = Network(module, read_state(module), "digits-cnn")
    prepared = method.prepare(Preparation(network, {}, 0, 1))
    return Builder(method, prepared, Keeping("float16", ()), network)


def candidate(k):
    return Recipe.of({"k": k})


def test_merges_of_one_candidate_compress_it_once_and_leave_it_as_it_is(builder, method):
    first = builder.build(Job(candidate(9)))
    merged = builder.build(Job(candidate(9).then(Merge((2, *[1] * (first.n_entries - 2))))))
    assert merged.n_entries == first.n_entries - 1
    again = builder.build(Job(candidate(9)))
    assert again.fingerprint() == first.fingerprint() != merged.fingerprint()
    assert method.compressed == {candidate(9): 1}


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(builder, method, monkeypatch):
    n_bytes = sum(t.indices.nbytes for t in builder.build(Job(candidate(8))).shared)
    monkeypatch.setattr(Builder, "REMEMBERED_BYTES", 2 * n_bytes)
    for k in (9, 8, 10, 8, 9):  # 10 drives 9 out, not 8, which was used since
        builder.build(Job(candidate(k)))
    assert method.compressed == {candidate(8): 1, candidate(9): 2, candidate(10): 1}


def test_what_is_larger_than_the_bound_is_built_all_the_same(builder, method, monkeypatch):
    monkeypatch.setattr(Builder, "REMEMBERED_BYTES", 0)
    for _ in range(2):
        assert builder.build(Job(candidate(8))).n_entries <= 8
    assert method.compressed == {candidate(8): 2}
