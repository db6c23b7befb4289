"""What every method must do. Subclass it and supply ``options``."""

import contextlib
import copy
import itertools
import pickle
import threading

import numpy as np
import pytest
import torch

from moeash.core.progress import silent
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Integer, middle
from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.methods.base import Preparation
from moeash.methods.options import OPTIONS
from moeash.methods.registry import build_method
from moeash.methods.stored import load, save
from moeash.networks.loading.sources import load_network
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import WeightWriter
from studies.digits_cnn import SPLITS


def digits_network():
    """Return a trained network that cannot be deep-copied or pickled."""
    module = load_network("digits-cnn")
    module.lock = threading.Lock()
    return Network(module, read_state(module), "digits-cnn")


def digits_splits():
    return draw_splits(load_source("digits"), SPLITS)


def prepare(method, network, splits, **changes):
    given = {"seed": 3, "n_threads": 1, **changes}
    return method.prepare(Preparation(network=network, splits=splits, **given))


def candidates(space, n_random=4, seed=0):
    """Return the corners of a space and some points inside."""
    draw = np.random.default_rng(seed)
    corners = itertools.product(*((v.low, v.high) for v in space))
    points = [dict(zip((v.name for v in space), corner, strict=True)) for corner in corners]
    for _ in range(n_random):
        points.append(
            {
                v.name: int(draw.integers(v.low, v.high + 1))
                if isinstance(v, Integer)
                else float(draw.uniform(v.low, v.high))
                for v in space
            }
        )
    return [Candidate.of(point) for point in points]


def accuracy(network, shared, split):
    writer = WeightWriter(network.module, network.state)
    writer.write(shared)
    with torch.inference_mode():
        right = [(network.module(x).argmax(1) == y).float().mean() for x, y in split.batches(450)]
    writer.restore()
    return float(right[0])


class Stopped(BaseException):
    """Somebody gave up in the middle."""


class MethodContract:
    """Deterministic, harmless to the network, and true to what its options say."""

    accurate = 0.96
    """Top-1 on the search split that the most symbols reach; the float network has 0.9889."""

    finer_is_lower = False
    """Whether lower values of its variables give more symbols."""

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls):
        """Return the options of a method with a small space."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def method(cls, options):
        return build_method(options)

    @pytest.fixture(scope="class")
    @classmethod
    def network(cls):
        return digits_network()

    @pytest.fixture(scope="class")
    @classmethod
    def splits(cls):
        return digits_splits()

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, method, network, splits):
        return prepare(method, network, splits)

    @pytest.fixture(scope="class")
    @classmethod
    def ways(cls, method):
        """Return the arguments of every way to compress a candidate."""
        return [{"refined": False}, {"refined": True}] if method.refines else [{"refined": False}]

    def test_it_is_its_options(self, options, method):
        assert OPTIONS[method.name] is type(options)
        assert pickle.loads(pickle.dumps(method)) == method == build_method(copy.copy(options))
        for said in ("calibration_images", "refines", "mergeable", "needs_coder"):
            assert getattr(method, said) == getattr(options, said)

    def test_preparing_and_compressing_again_gives_the_same_weights(
        self, method, network, splits, prepared, ways
    ):
        again = prepare(method, network, splits)
        for way in ways:
            first, second, third = (
                method.compress(
                    ready, middle(method.space(prepared)), network=network, **way
                ).fingerprint()
                for ready in (prepared, prepared, again)
            )
            assert first == second == third

    def test_the_network_holds_what_it_held_and_what_that_is_does_not_matter(
        self, method, network, splits, prepared, ways
    ):
        module = network.module
        low, high = candidates(method.space(prepared), n_random=0)[:: 2 ** len(method.space()) - 1]
        want = [
            method.compress(prepared, low, network=network, **way).fingerprint() for way in ways
        ]
        writer = WeightWriter(module, network.state)
        writer.write(method.compress(prepared, high, network=network))
        module.train()
        module.conv2.eval()
        modes = {name: part.training for name, part in module.named_modules()}
        held = {name: value.clone() for name, value in module.state_dict().items()}
        try:
            assert not all(np.array_equal(held[p.name].numpy(), p.values) for p in network.state), (
                "the module must hold other weights than the float ones"
            )
            got = [
                method.compress(prepared, low, network=network, **way).fingerprint() for way in ways
            ]
            assert got == want
            assert {name: part.training for name, part in module.named_modules()} == modes
            for name, value in module.state_dict().items():
                assert torch.equal(value, held[name]), name
        finally:
            writer.restore()
            module.eval()

    def test_preparing_leaves_the_network_as_it_was(self, method, network, splits):
        module = network.module
        module.fc1.train()
        held = {name: value.clone() for name, value in module.state_dict().items()}
        try:
            prepare(method, network, splits)
            assert [n for n, part in module.named_modules() if part.training] == ["fc1"]
            assert all(torch.equal(v, held[n]) for n, v in module.state_dict().items())
            assert all(p.requires_grad for p in module.parameters())
        finally:
            module.eval()

    def test_whoever_stops_it_in_the_middle_finds_the_network_as_it_was(
        self, method, network, prepared, ways
    ):
        held = {name: value.clone() for name, value in network.module.state_dict().items()}

        def stop(what, done, total):
            if done == 2:
                raise Stopped

        for way in ways:
            with contextlib.suppress(Stopped):
                method.compress(
                    prepared, middle(method.space(prepared)), network=network, progress=stop, **way
                )
            for name, value in network.module.state_dict().items():
                assert torch.equal(value, held[name]), name
            assert not network.module.training

    def test_prepared_values_survive_pickling_and_storing(
        self, method, network, prepared, ways, tmp_path
    ):
        save(prepared, tmp_path / "prepared")
        for way in ways:
            want, *got = (
                method.compress(
                    ready, middle(method.space(prepared)), network=network, **way
                ).fingerprint()
                for ready in (
                    prepared,
                    pickle.loads(pickle.dumps(prepared)),
                    load(tmp_path / "prepared"),
                )
            )
            assert got == [want, want]
        assert method.notes(load(tmp_path / "prepared")) == method.notes(prepared)

    def test_no_candidate_has_more_entries_than_the_method_says(self, method, network, prepared):
        most = method.most_entries(prepared)
        counts = [
            method.compress(prepared, candidate, network=network).n_entries
            for candidate in candidates(method.space(prepared))
        ]
        assert max(counts) <= most
        assert most <= 2 * max(counts), "so loose a bound makes hypervolumes mean nothing"

    def test_a_mergeable_method_has_exactly_one_codebook(self, method, network, prepared):
        if not method.mergeable:
            pytest.skip("its entries are not merged")
        shared = method.compress(prepared, middle(method.space(prepared)), network=network)
        assert len(shared.codebooks) == 1

    def test_every_variable_of_the_space_matters(self, method, network, prepared):
        for variable in method.space(prepared):
            low, high = (
                method.compress(
                    prepared,
                    Candidate.of(
                        {**middle(method.space(prepared)).as_dict(), variable.name: value}
                    ),
                    network=network,
                ).fingerprint()
                for value in (variable.low, variable.high)
            )
            assert low != high, variable.name

    def test_weights_are_those_that_entries_stand_for(self, method, network, prepared):
        corners = candidates(method.space(prepared), n_random=0)
        finest = corners[0 if self.finer_is_lower else -1]
        shared = method.compress(prepared, finest, network=network)
        weights = np.concatenate([np.ravel(w) for w in method.weights(prepared, network)])
        entries = [shared.codebooks[t.codebook].entries[t.indices].ravel() for t in shared.shared]
        entries = np.concatenate(entries)
        assert len(weights) == len(entries)
        assert np.isclose(np.abs(weights).max(), np.abs(entries).max(), rtol=0.15)

    def test_every_weight_is_an_entry_and_counts_are_those_of_the_indices(
        self, method, network, prepared
    ):
        shared = method.compress(prepared, middle(method.space(prepared)), network=network)
        assert shared.n_shared == 54864
        for tensor in shared.shared:
            assert tensor.indices.max() < len(shared.codebooks[tensor.codebook])
            counted = np.bincount(tensor.indices, minlength=len(tensor.counts))
            assert (counted == tensor.counts).all()

    def test_more_symbols_come_closer_to_the_network(self, method, network, splits, prepared):
        corners = candidates(method.space(prepared), n_random=0)
        coarse, fine = (
            accuracy(network, method.compress(prepared, corner, network=network), splits["search"])
            for corner in (corners[0], corners[-1])[:: -1 if self.finer_is_lower else 1]
        )
        assert coarse < fine
        assert fine > self.accurate

    def test_progress_counts_up_to_the_end(self, method, network, splits, prepared, ways):
        told = []

        def note(what, done, total):
            told.append((what, done, total))

        def compress(**way):
            point = middle(method.space(prepared))
            method.compress(prepared, point, network=network, progress=note, **way)

        prepare(method, network, splits, progress=note)
        assert told or not method.calibration_images
        for work in (None, *ways):
            if work is not None:
                told.clear()
                compress(**work)
            for what, reports in itertools.groupby(told, lambda report: report[0]):
                counts = [(done, total) for _, done, total in reports]
                assert counts == sorted(counts), what
                assert all(total is None or 0 < done <= total for done, total in counts)
                assert counts[-1][1] is None or counts[-1][0] == counts[-1][1], what

    def test_silence_is_the_default(self):
        assert silent("anything", 1, None) is None
