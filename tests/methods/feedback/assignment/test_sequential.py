import copy

import numpy as np
import pytest
import torch
from torch import nn

from moeash.methods.feedback.assignment.sequential import DAMPING, NOISE, Lockstep, Rehearsal
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, prepare
from tests.marks import slow


def images(n=120, shape=(2, 8, 8), seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + 0.3


class Net(nn.Module):
    """Convolutions with a BatchNorm, in groups, and with a bias; one layer used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.point = nn.Conv2d(16, 16, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 10)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = self.act(self.mix(self.act(self.norm(self.stem(x)))))
        x = self.act(self.point(self.act(self.point(x))))
        return self.head(x.mean((2, 3)))


class Attending(nn.Module):
    """Attention: one weight in three parts, one that no module is called for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Linear(6, 16)
        self.memory = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x, y = self.embed(x), self.memory(x) - 2
        attended, _ = self.attention(x, y, y, need_weights=False)
        return self.head((x + attended).mean(1))


NETWORKS = {"convolutions": (Net, (2, 8, 8)), "attention": (Attending, (5, 6))}


@pytest.fixture(
    scope="module",
    params=[slow(name) if name == "convolutions" else name for name in NETWORKS],
)
def case(request):
    make, shape = NETWORKS[request.param]
    network, x = make().eval(), images(shape=shape)
    prepared = prepare(network, x.split(40))
    return network, prepared, Rehearsal(network, x, batch_size=40), images(400, shape, seed=7)


def lost(network, values, x):
    twin = copy.deepcopy(network)
    twin.load_state_dict(twin.state_dict() | values)
    with torch.no_grad():
        return float((twin(x) - network(x)).square().mean())


def floats(prepared):
    return {f.name: f.weight for f in prepared.factors} | prepared.kept


def test_layers_behind_an_unchanged_network_stay_as_they_are(case):
    _, prepared, rehearsal, _ = case
    with Lockstep(rehearsal, floats(prepared)) as lockstep:
        for factor in prepared.factors:
            aimed, shift = lockstep.aimed(factor)
            torch.testing.assert_close(aimed.weight, factor.weight, rtol=0, atol=1e-6)
            assert float(shift.abs().max()) < 1e-6


def test_a_layer_is_moved_to_the_damped_least_squares_solution():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).eval()
    x = images(50, (5,))
    prepared = prepare(network, [x], Settings(balancing=Balancing(through_pairs=False)))
    first, second = prepared.factors
    with Lockstep(Rehearsal(network, x, batch_size=20), floats(prepared)) as lockstep:
        rough = (first.weight * 4).round() / 4
        lockstep.put({first.name: rough})
        aimed, shift = lockstep.aimed(second)

        bias = network[0].bias.detach().numpy()
        exact, given = (
            np.tanh(x.numpy() @ w[0].numpy().T + bias).astype(np.float64)
            for w in (first.weight, rough)
        )
        columns = np.hstack([given, np.ones((50, 1))])
        weight = second.weight[0].numpy().astype(np.float64)
        damping = np.sqrt(DAMPING * (1 + NOISE * 7 / 50) * (given**2).sum(0).mean())
        # Damped least squares as plain ones: a row per column that asks it to stay 0.
        rows = np.vstack([columns, damping * np.eye(7, 8)])
        wanted = np.vstack([(exact - given) @ weight.T, np.zeros((7, 3))])
        moved = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        np.testing.assert_allclose(aimed.weight[0].numpy(), weight + moved[:7].T, atol=1e-5)
        np.testing.assert_allclose(shift.numpy(), moved[7], atol=1e-5)


def test_outputs_move_less_than_with_all_layers_at_once(case):
    network, prepared, rehearsal, x = case
    ratios = []
    for k in (10, 12, 14, 17, 20, 24, 28, 33):
        alone = lost(network, compress(prepared, k, 0.02).values, x)
        ratios.append(lost(network, compress(prepared, k, 0.02, rehearsal=rehearsal).values, x))
        ratios[-1] /= alone
    assert np.exp(np.mean(np.log(ratios))) < 0.9, ratios


@pytest.mark.parametrize("trellis", [0, slow(4)])
def test_it_is_deterministic_and_leaves_the_network_as_it_was(trellis):
    network, x = Net().eval(), images()
    before = copy.deepcopy(network.state_dict())
    prepared = prepare(network, x.split(40), Settings(common_order=True))
    rehearsal = Rehearsal(network, x, batch_size=40)
    results = [compress(prepared, 20, 0.02, trellis=trellis, rehearsal=rehearsal) for _ in range(3)]
    for result in results[1:]:
        assert torch.equal(result.entries, results[0].entries)
        for name, indices in results[0].indices.items():
            assert torch.equal(result.indices[name], indices)
        for name, values in results[0].kept.items():
            assert torch.equal(result.kept[name], values)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batches_of_any_size_give_the_same_layers_up_to_rounding():
    network, x = Net().eval(), images()
    prepared = prepare(network, x.split(40))
    moved = []
    for batch_size in (7, 120):
        with Lockstep(Rehearsal(network, x, batch_size=batch_size), floats(prepared)) as lockstep:
            lockstep.put({"stem.weight": (network.stem.weight.detach() * 6).round() / 6})
            moved.append([lockstep.aimed(factor) for factor in prepared.factors[1:]])
    for (a, s), (b, t) in zip(*moved, strict=True):
        torch.testing.assert_close(a.weight, b.weight, rtol=0, atol=2e-5)
        torch.testing.assert_close(s, t, rtol=0, atol=2e-5)


class Odd(nn.Module):
    """A dead layer, one that large batches pass alone, and one whose rows belong to inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.dead = nn.Conv2d(4, 4, 1)
        self.seldom = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        x = self.up(torch.relu(self.stem(x)))
        if len(x) > 30:
            x = x + self.seldom(x)
        return self.head((x + self.dead(x * 0.0)).mean((2, 3)))


def test_what_no_least_squares_can_aim_is_left_as_it_is():
    network, x = Odd().eval(), images(40)
    prepared = prepare(network, [x])
    with Lockstep(Rehearsal(network, x, batch_size=20), floats(prepared)) as lockstep:
        lockstep.put({"stem.weight": (network.stem.weight.detach() * 4).round() / 4})
        factors = {factor.name: factor for factor in prepared.factors}
        for name in ("up.weight", "dead.weight", "seldom.weight"):
            aimed, shift = lockstep.aimed(factors[name])
            assert aimed is factors[name]
            assert not shift.any()
        aimed, _ = lockstep.aimed(factors["head.weight"])
        assert not torch.equal(aimed.weight, factors["head.weight"].weight)


def test_each_part_of_attention_is_aimed_by_what_it_is_given():
    network, x = Attending().eval(), images(60, (5, 6))
    prepared = prepare(network, [x])
    with Lockstep(Rehearsal(network, x, batch_size=60), floats(prepared)) as lockstep:
        lockstep.put({"memory.weight": (network.memory.weight.detach() * 4).round() / 4})
        factor = next(f for f in prepared.factors if f.name == "attention.in_proj_weight")
        aimed, _ = lockstep.aimed(factor)
        moved = (aimed.weight - factor.weight).abs().amax((1, 2))
        assert moved[0] < 1e-6, "queries come from what has not changed"
        assert moved[1] > 1e-3 and moved[2] > 1e-3
