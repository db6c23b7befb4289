import itertools

import pytest
import torch
from torch import nn

from moeash.errors import RescalingError
from moeash.methods.feedback.balancing import scales
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, prepare
from tests.entropy import index_bits
from tests.marks import slow
from tests.methods.feedback.networks import Net, images, outputs


def test_rescaling_is_refused_when_somebody_else_reads_the_layer():
    leaky = Net(leak=0.5).eval()
    for balance in (0.25, 0.0):  # even unbalanced, the running mean could not take up a shift
        with pytest.raises(RescalingError, match="no row is balanced through norms"):
            prepare(leaky, [images()], Settings(balancing=Balancing(balance)))
    prepared = prepare(leaky, [images()], Settings(balancing=Balancing(through_norms=False)))
    assert set(prepared.kept) == {"stem.bias", "head.bias"}


class Branches(nn.Module):
    """A straight layer, and three more whose outputs are multiplied by a gain."""

    def __init__(self, gain, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.straight, self.first = nn.Linear(16, 10), nn.Linear(16, 32)
        self.second, self.third = nn.Linear(32, 32), nn.Linear(32, 10)
        self.gain = gain

    def forward(self, x):
        branch = torch.relu(self.second(torch.relu(self.first(x))))
        return self.straight(x) + self.gain * self.third(branch)


class Beside(nn.Module):
    """Two layers of unlike rows beside a branch of a gain."""

    def __init__(self, gain):
        super().__init__()
        self.branches = Branches(gain)
        self.wide, self.narrow = nn.Linear(16, 32), nn.Linear(32, 10)
        with torch.no_grad():
            self.wide.weight *= torch.logspace(-0.3, 0.3, 32).unsqueeze(1)

    def forward(self, x):
        return self.branches(x) + self.narrow(torch.relu(self.wide(x)))


def inputs(seed=1, count=500):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def points(network, exponent):
    """Return the notes, and bytes and divergence of candidates of the whole space."""
    settings = Settings(damping=0.1, balancing=Balancing(exponent))
    prepared = prepare(network, [inputs()], settings)
    x = inputs(seed=2, count=2000)
    with torch.no_grad():
        expected = network(x).log_softmax(1)
    found = []
    for k, rate in itertools.product((24, 48, 64, 96, 128), (0.02, 0.1)):
        result = compress(prepared, k, rate)
        got = outputs(network, result.values, x).log_softmax(1)
        size = sum(index_bits(indices) for indices in result.indices.values()) / 8
        found.append((size, float((expected.exp() * (expected - got)).sum(1).mean())))
    return prepared.notes, found


@pytest.mark.parametrize("gain", [1.0, slow(0.3), 0.1, slow(0.03), slow(0.01), slow(0.001)])
def test_balanced_branches_of_any_gain_reach_what_rows_as_they_are_reach(gain):
    network = Branches(gain).eval()
    notes, balanced = points(network, 0.25)
    _, unbalanced = points(network, 0.0)
    size, least = min(balanced, key=lambda point: point[1])
    assert least < 1.5 * min(error for _, error in unbalanced)
    assert least < 1.5 * min(error for other, error in unbalanced if other <= 1.03 * size)
    assert len(notes) == 1 and "second.weight" in notes[0] and "balanced as asked" in notes[0]


@pytest.mark.parametrize(
    ("gain", "seed"),
    [(1.0, 0), slow(1.0, 1), slow(1.0, 2), slow(10.0, 0), (10.0, 2), slow(0.01, 1)],
)
def test_layers_that_undo_scales_are_balanced_no_further_than_a_search_bears(gain, seed):
    network = Branches(gain, seed).eval()
    (note,), balanced = points(network, 0.25)
    _, unbalanced = points(network, 0.0)
    assert min(error for _, error in balanced) < 1.5 * min(error for _, error in unbalanced)
    assert "balanced as asked" in note


def rows_of(network, key, finest):
    settings = Settings(rows="independent", balancing=Balancing(finest=finest))
    prepared = prepare(network, [inputs()], settings)
    (factor,) = (factor for factor in prepared.factors if factor.name == key)
    return factor.weight, prepared.notes


@pytest.mark.slow
def test_layers_beside_a_limited_branch_are_balanced_as_asked():
    network = Beside(1e-3).eval()
    limited, (note,) = rows_of(network, "wide.weight", 128)
    assert "wide" not in note and "branches.second.weight" in note
    asked, notes = rows_of(network, "wide.weight", 10**6)
    assert notes == ()
    assert torch.equal(limited, asked)
    assert not torch.equal(limited[0], network.wide.weight)


def test_rows_that_no_limit_helps_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(scales, "HALVINGS", 0)
    network = Branches(0.01).eval()
    prepared = prepare(network, [inputs()], Settings())
    for factor in prepared.factors:
        assert torch.equal(factor.weight[0], network.state_dict()[factor.name])
    (note,) = prepared.notes
    assert note.startswith("rows of first.weight, second.weight are not balanced")
