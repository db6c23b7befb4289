"""Deciding how kept tensors are stored: by measuring, once, the same everywhere."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from moeash.codec.size import size
from moeash.compression import probing
from moeash.compression.keeping import (
    MAX_BITS,
    MIN_BITS,
    OutputProbe,
    _ladder,
    choose_precision,
    decide_keeping,
    divergence,
)
from moeash.compression.options import CodecOptions
from moeash.core.codebook import SharedWeights
from moeash.core.kept import Keeping
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Recipe
from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.errors import InputError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job
from moeash.methods.base import Preparation
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import WeightWriter
from tests.digits import digits_spec

SPLITS = {"search": {"part": "all", "count": 200, "seed": 0}}


class Normed(nn.Module):
    """A small network of everything that is kept: norms, biases, a scalar, a counter."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 24, 3, bias=False)
        self.bn = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 40, 3)
        self.bn2 = nn.BatchNorm2d(40, eps=1e-3)
        self.fc = nn.Linear(40, 10)
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3))) * self.scale


class Reads(Normed):
    """Somebody who reads a norm's statistics beside the norm."""

    def forward(self, x):
        return super().forward(x) + self.bn.running_mean.sum()


def trained(kind=Normed):
    """Return a network whose norms have seen the digits; its convolutions are random."""
    torch.manual_seed(0)
    module = kind()
    with torch.no_grad():
        for part in (module.bn, module.bn2):
            part.weight.uniform_(0.5, 2)
            part.bias.normal_()
        split = draw_splits(load_source("digits"), SPLITS)["search"]
        for x, _ in split.batches(50):
            module(x)
    return module.eval()


class Loaded:
    """A network, its writer, and a typical compressed version of it."""

    def __init__(self, module=None, k=24):
        self.module = trained() if module is None else module
        self.network = Network(self.module, read_state(self.module), "test")
        self.writer = WeightWriter(self.module, self.network.state)
        self.search = draw_splits(load_source("digits"), SPLITS)["search"]
        method = Uniform(UniformOptions())
        prepared = method.prepare(Preparation(self.network, {}, seed=0, n_threads=1))
        self.shared = method.compress(prepared, Candidate.of({"k": k}), network=self.network)
        self.norms = find_norms(self.module, self.network.state)

    def probe(self):
        return OutputProbe(self.network, self.writer, self.search, batch_size=50, device="cpu")

    def choose(self, tolerance):
        return choose_precision(
            self.probe(), self.shared, self.norms, coder="ans", tolerance=tolerance
        ).keeping

    def decide(self, **changes):
        chosen = {key: changes.pop(key) for key in ("kept", "norms") if key in changes}
        options = {
            "codec": CodecOptions(**({"kept": "auto"} | chosen)),
            "typical": lambda: self.shared,
            "batch_size": 50,
            "device": "cpu",
        }
        return decide_keeping(self.network, self.writer, self.search, **(options | changes))

    def cost(self, keeping):
        """Divergence that rounding adds, and what sharing alone does, on all search images."""
        rows = []
        for weights in (None, Keeping("float32", self.norms), keeping):
            if weights is None:
                self.writer.restore()
            else:
                self.writer.write(weights.apply(self.shared))
            with torch.inference_mode():
                rows.append(torch.cat([self.module(x) for x, _ in self.search.batches(50)]))
        exact, shared, stored = (row.double() for row in rows)
        return divergence(shared, stored), divergence(exact, shared)

    def kept_bytes(self, keeping):
        return size(SharedWeights((), keeping.apply(self.shared).kept)).total


@pytest.fixture(scope="module")
def loaded():
    return Loaded()


def test_divergence_is_that_of_the_softmax():
    p, q = torch.tensor([[0.5, 0.5]]).log().double(), torch.tensor([[0.25, 0.75]]).log().double()
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert divergence(p + 3, q - 1) == pytest.approx(expected)
    assert divergence(p, p) == 0
    assert divergence(p, q * torch.nan) == float("inf")


@pytest.mark.parametrize("tolerance", [0.001, 0.01, 0.1])
def test_the_effect_is_within_the_tolerance_and_uses_it(loaded, tolerance):
    keeping = loaded.choose(tolerance)
    assert keeping.exponents
    rounding, sharing = loaded.cost(keeping)
    # All search images are the ones looked at, so nothing but summation order differs.
    assert tolerance / 6 * sharing < rounding <= tolerance * sharing * (1 + 1e-6)


@pytest.mark.slow
def test_a_higher_tolerance_never_gives_a_larger_file(loaded):
    keepings = [loaded.choose(tolerance) for tolerance in (1e-12, 1e-4, 1e-3, 0.01, 0.1, 1.0)]
    sizes = [loaded.kept_bytes(keeping) for keeping in keepings]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 0.6 * sizes[0]
    for fine, coarse in pairwise(keepings):
        assert all(coarse.exponents[name] >= e for name, e in fine.exponents.items())


def test_a_tolerance_of_nothing_keeps_every_bit(loaded):
    keeping = loaded.choose(0.0)
    assert (keeping.precision, dict(keeping.exponents)) == ("float32", {})


def test_where_sharing_costs_a_lot_float16_is_near_enough(loaded):
    assert loaded.choose(0.01).precision == "float16"


def test_the_choice_is_the_same_every_time_and_leaves_the_float_network(loaded):
    loaded.writer.restore()
    before = {name: value.clone() for name, value in loaded.module.state_dict().items()}
    first, second = loaded.decide(), Loaded().decide()
    assert first.keeping == second.keeping and first.notes == second.notes
    after = loaded.module.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_only_a_few_passes_are_made(loaded):
    probe = loaded.probe()
    choose_precision(probe, loaded.shared, loaded.norms, coder="ans", tolerance=0.01)
    assert probe.n_passes <= 6 + 8  # tensors, and around them


def test_no_steps_are_measured_twice(loaded):
    """The first prices are so high that every tensor has its fewest bits at all of them."""
    tensors = Keeping("float32", loaded.norms).stored({t.name: t for t in loaded.shared.kept})
    rules = [((name,), 1e-9) for name in ("bn.weight", "fc.bias")]
    ladder = list(_ladder(rules, tensors, start=1.0))
    assert ladder[-1] == {} and {} not in ladder[:-1]
    assert all(one != other for one, other in pairwise(ladder))
    assert len(ladder) <= 2 * (MAX_BITS - MIN_BITS) + 1


def test_many_tensors_are_measured_in_groups_of_one_kind(loaded, monkeypatch):
    monkeypatch.setattr(probing, "PROBES", 2)
    probe = loaded.probe()
    keeping = choose_precision(
        probe, loaded.shared, loaded.norms, coder="ans", tolerance=0.01
    ).keeping
    alone = loaded.choose(0.01)
    assert keeping.exponents.keys() == alone.exponents.keys()
    rounding, sharing = loaded.cost(keeping)
    assert rounding <= 0.01 * sharing * (1 + 1e-6)


def test_constants_scalars_and_counters_have_no_steps(loaded):
    assert set(loaded.choose(0.1).exponents) == {
        "bn.weight", "bn.bias", "bn2.weight", "bn2.bias", "conv2.bias", "fc.bias",
    }  # fmt: skip


def test_norms_that_something_else_reads_stay_as_they_are():
    reads = Loaded(trained(Reads))
    decided = reads.decide(kept="float16")
    assert decided.keeping == Keeping("float16")
    (note,) = decided.notes
    assert note.startswith("BatchNorms are stored as they are: as two vectors they move")


@pytest.mark.parametrize("kept", ["float32", "float16"])
def test_a_plain_precision_measures_no_candidate(loaded, kept):
    def typical():
        raise AssertionError("nothing needed a compressed network")

    decided = loaded.decide(kept=kept, typical=typical)
    assert decided.keeping == Keeping(kept, loaded.norms)
    assert loaded.decide(kept=kept, norms="as_they_are").keeping == Keeping(kept)


def test_a_function_cannot_tell_how_coarse_kept_tensors_may_be():
    task = digits_spec(codec={"kept": "auto"}).task()
    with pytest.raises(InputError, match="kept = 'auto' measures"):
        replace(task, data=None, evaluate=lambda module: 0.0)


def test_a_study_measures_what_it_stores():
    task = replace(
        digits_spec(codec={"kept": "auto"}, method={"k": [4, 40]}).task(),
        module=trained(),
    )
    evaluator = Evaluator(task)
    job = Job(Recipe.of({"k": 20}))
    shared = evaluator.compressor.build(job.recipe)
    assert any(tensor.exponent for tensor in shared.kept)
    outcome = evaluator.evaluate(job, Archive(("size_bytes",)))
    assert outcome.fingerprint == shared.fingerprint()
    for name, tensor in evaluator.compressor.network.module.state_dict().items():
        assert torch.equal(tensor, torch.tensor(shared.decoded()[name])), name
    stored = evaluator.compressor.groundwork.stored
    notes, keeping = stored.notes, stored.keeping
    assert "kept floats are stored as integers" in notes[-1]
    evaluator.close()
    # A worker, or the study continued, is told and decides nothing again.
    told = Evaluator(replace(task, keeping=keeping))
    stored = told.compressor.groundwork.stored
    assert stored.keeping == keeping and not stored.notes
    assert told.compressor.build(job.recipe).fingerprint() == shared.fingerprint()
    told.close()


def test_the_device_way_stores_kept_tensors_alike():
    task = replace(
        digits_spec(codec={"kept": "auto"}, method={"k": [4, 40]}).task(),
        module=trained(),
    )
    job = Job(Recipe.of({"k": 20}))
    outcomes = []
    for on_device in (False, True):
        evaluator = Evaluator(task, on_device=on_device)
        outcomes.append(evaluator.evaluate(job, Archive(("size_bytes",))))
        evaluator.close()
    assert outcomes[0].fingerprint == outcomes[1].fingerprint
    assert outcomes[0].sizes == outcomes[1].sizes
