"""Grids worth trying: found from what is lost, whatever sets the range of the weights."""

from math import inf, nan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import moeash
from moeash.core.solutions.variables import Integer
from moeash.methods.bounds import LEAST_RANGE, MOST_BINS
from moeash.methods.feedback.balancing.grids import (
    CLOSE,
    COARSEST,
    FINEST,
    TRIES,
    GridLoss,
    bins_losing,
    bins_of,
)
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.method import TRELLIS_BINS, Feedback
from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.feedback.preparing import Settings, prepare
from tests.contracts.method import prepare as prepare_method
from tests.entropy import index_bits
from tests.marks import slow
from tests.methods.feedback.balancing.test_scales import Branches
from tests.methods.feedback.networks import outputs


@given(
    st.floats(1.5, 4.0), st.floats(2.0, 20_000.0), st.integers(2, MOST_BINS), st.floats(1e-6, 0.5)
)
def test_a_loss_that_falls_is_met_closely_in_few_looks(power, scale, first, wanted):
    looks = []

    def lost(bins):
        looks.append(bins)
        return (bins / scale) ** -power

    bins = bins_losing(lost, wanted, first)
    assert len(looks) <= TRIES
    ideal = scale * wanted ** (-1 / power)
    if ideal >= MOST_BINS:
        assert bins >= MOST_BINS * 0.9
    elif ideal <= 2:
        assert bins <= 3
    else:
        near = max(1.15, CLOSE ** (1 / power))
        assert ideal / near - 1 <= bins <= ideal * near + 1


@pytest.mark.parametrize("value", [inf, nan])
def test_losses_that_are_no_numbers_ask_for_the_finest_grid(value):
    assert bins_losing(lambda bins: value, FINEST, 64) == MOST_BINS


@pytest.mark.parametrize("value", [0.0, -1e-12])
def test_where_nothing_is_ever_lost_the_coarsest_grid_will_do(value):
    assert bins_losing(lambda bins: value, FINEST, 64) <= 3


class Plain(nn.Module):
    """Two layers without anything that undoes a rescaling of the last one's rows."""

    def __init__(self, stretched=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 10)
        with torch.no_grad():
            self.last.weight *= 3
            self.last.weight[0, 0] *= stretched

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def inputs(seed=1, count=400):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def share_lost(network, prepared, bins):
    """Return what is lost on images nobody has looked at, a share of what the outputs say."""
    x = inputs(seed=2, count=2000)
    with torch.no_grad():
        wanted = network(x).double().log_softmax(1)
    got = outputs(network, compress(prepared, bins, 0.0).values, x).double().log_softmax(1)
    said = float(torch.tensor(10.0).log()) + float((wanted.exp() * wanted).sum(1).mean())
    return float((wanted.exp() * (wanted - got)).sum(1).mean()) / said


def test_bins_follow_an_outlier_and_losses_do_not():
    found = {}
    for stretched in (1.0, 30.0):
        network = Plain(stretched).eval()
        settings = Settings(damping=0.1, rows="independent", balancing=Balancing(finest=None))
        prepared = prepare(network, [inputs()], settings)
        assert prepared.bins is not None
        low, high = prepared.bins
        found[stretched] = low, high
        assert COARSEST / 3 < share_lost(network, prepared, low) < COARSEST * 3
        assert FINEST / 4 < share_lost(network, prepared, high) < FINEST * 4
    for plain, stretched in zip(found[1.0], found[30.0], strict=True):
        assert stretched > 2.5 * plain, "one weight sets the range"


def bytes_at(network, exponent, wanted):
    """Return the bytes at a divergence of wanted nats, read off six grids of the range found."""
    settings = Settings(damping=0.1, balancing=Balancing(exponent, finest=None))
    prepared = prepare(network, [inputs()], settings)
    x = inputs(seed=2, count=1000)
    with torch.no_grad():
        expected = network(x).log_softmax(1)
    sizes, losses = [], []
    for k in np.unique(np.geomspace(*prepared.bins, 6).round().astype(int)):
        result = compress(prepared, int(k), 0.03)
        got = outputs(network, result.values, x).log_softmax(1)
        sizes.append(sum(index_bits(indices) for indices in result.indices.values()) / 8)
        losses.append(float((expected.exp() * (expected - got)).sum(1).mean()))
    assert min(losses) < wanted < max(losses)
    return float(np.interp(-np.log(wanted), -np.log(losses), sizes))


@pytest.mark.parametrize(
    "gain", [100.0, slow(30.0), slow(1.0), slow(0.1), 0.01, slow(0.001), 1e-5, slow(1e-9)]
)
def test_branches_of_any_gain_cost_balanced_what_they_cost_as_they_are(gain):
    network = Branches(gain).eval()
    assert bytes_at(network, 0.25, 1e-3) < 1.15 * bytes_at(network, 0.0, 1e-3)


def test_a_network_on_a_grid_is_measured_once():
    network = Plain().eval()
    prepared = prepare(network, [inputs()], Settings(balancing=Balancing(0.0)))
    grids = GridLoss(network, [inputs()], {}).of(prepared.factors, prepared.kept)
    assert grids.on(40) is grids.on(40)
    assert grids.on(80).lost < grids.on(40).lost and grids.on(80).bits > grids.on(40).bits
    low, high = grids.useful()
    assert grids.on(high).lost < COARSEST / 10 < grids.on(low).lost


@pytest.mark.slow
@pytest.mark.parametrize("trellis", [0, 4])
def test_a_method_without_k_finds_its_own(network, splits, trellis):
    options = FeedbackOptions(images=100, sketches=1, trellis=trellis)
    method = Feedback(options)
    assert isinstance(method.space()[0], Integer), "a candidate can be given without preparing"
    prepared = prepare_method(method, network, splits)
    low, high = prepared.bins
    assert method.space(prepared)[0] == Integer("k", low, high, log=True)
    assert high >= LEAST_RANGE * low
    if trellis:
        assert prepared.bins == tuple(round(TRELLIS_BINS * n) for n in prepared.layers.bins)
    fixed = Feedback(FeedbackOptions(k=(5, 9), images=100, sketches=1, trellis=trellis))
    assert fixed.space(prepare_method(fixed, network, splits))[0] == Integer("k", 5, 9)


def test_without_images_bins_follow_the_spread_of_the_weights(network):
    prepared = prepare_method(Feedback(FeedbackOptions()), network, {})
    weights = [torch.tensor(p.values) for p in network.state if p.role == "shared"]
    flat = torch.cat([weight.flatten() for weight in weights])
    low, high = prepared.bins
    step = float(flat.max() - flat.min()) / high
    assert 0.02 < step / float(flat.std()) < 0.5 and high >= LEAST_RANGE * low
    assert bins_of([torch.zeros(3, 4)]) == (1, LEAST_RANGE)


@pytest.mark.slow
def test_the_first_generation_of_a_search_without_k_holds_useful_solutions(tmp_path):
    network, x = Plain(30.0).eval(), inputs(seed=2, count=500)
    with torch.no_grad():
        wanted = network(x).log_softmax(1)

    def closeness(module):
        with torch.no_grad():
            return -float((wanted.exp() * (wanted - module(x).log_softmax(1))).sum(1).mean())

    def search(generations):
        return moeash.search(
            network,
            evaluate=closeness,
            method="feedback",
            calibration=inputs(),
            population=12,
            generations=generations,
            storage=f"sqlite:///{tmp_path}/a.db",
            progress=False,
            spec={"refine": {"solutions": 0}, "merge": {"trials": 0}},
        )

    study = search(1)
    found = [solution.metric for solution in study.solutions()]
    said = float(torch.tensor(10.0).log() + (wanted.exp() * wanted).sum(1).mean())
    lost = [-metric / said for metric in found]
    assert sum(FINEST < share < 2 * COARSEST for share in lost) >= len(lost) / 2
    assert max(lost) > COARSEST / 3 and min(lost) < 4 * FINEST, "both ends are there"
    low, high = study.facts.variables[0].low, study.facts.variables[0].high
    assert [low, high] == [s.recipe.candidate["k"] for s in (study.front()[0], study.front()[-1])]
    again = search(2)
    assert again.facts.variables == study.facts.variables, "a study goes on in its own space"
