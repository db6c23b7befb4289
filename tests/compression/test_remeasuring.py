"""Statistics of BatchNorms measured again: exact, whatever the batches, and by any method."""

import numpy as np
import pytest
import torch
from torch import nn

from moeash.compression import remeasuring
from moeash.compression.remeasuring import Remeasuring, calibration_images
from moeash.core.codebook import keep_all
from moeash.core.solutions.candidate import Candidate
from moeash.errors import InputError
from moeash.methods.base import Preparation
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.norms import NORM_TYPES
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import WeightWriter


class Deep(nn.Module):
    """Three norms behind one another, one in a branch, one behind a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(6, affine=False)
        self.shortcut = nn.BatchNorm2d(2)
        self.fc = nn.Linear(8, 5)
        self.bn3 = nn.BatchNorm1d(5)

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        y = torch.cat([torch.relu(y), self.shortcut(x)], 1).amax((2, 3))
        return self.bn3(self.fc(y))


def deep():
    torch.manual_seed(0)
    return Deep().eval()


def images(n=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(n, 2, 7, 7, generator=generator)


def network_of(module):
    return Network(module, read_state(module), "test")


def remeasured(module, x):
    return Remeasuring(network_of(module), x, "cpu").measure()


def by_definition(module, x):
    """One norm after the other, all images at once, everything in float64."""
    module = module.double().eval()
    new = {}
    for name in ("bn1", "bn2", "shortcut", "bn3"):
        norm, seen = module.get_submodule(name), []
        with norm.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0])):
            module(x.double())
        (given,) = seen
        given = given.transpose(0, 1).flatten(1)
        new[f"{name}.running_mean"] = given.mean(1)
        new[f"{name}.running_var"] = given.var(1)
        norm.running_mean.copy_(new[f"{name}.running_mean"])
        norm.running_var.copy_(new[f"{name}.running_var"])
    return {name: value.numpy() for name, value in new.items()}


@pytest.mark.parametrize("elements", [1 << 27, 3000, 1], ids=["one pass", "pieces", "pairs"])
def test_statistics_are_those_of_the_definition_whatever_fits_in_memory(elements, monkeypatch):
    monkeypatch.setattr(remeasuring, "ELEMENTS", elements)
    with torch.no_grad():
        expected = by_definition(deep(), images())
    got = remeasured(deep(), images())
    assert got.keys() == expected.keys()
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=1e-6, err_msg=name)


def test_one_pass_and_a_pass_per_norm_differ_in_their_passes_only(monkeypatch):
    calls, ends = [], []
    for elements in (1 << 27, 3000):
        monkeypatch.setattr(remeasuring, "ELEMENTS", elements)
        module = deep()
        made = Remeasuring(network_of(module), images(), "cpu")
        module.fc.register_forward_pre_hook(lambda m, args: ends.append(len(args[0])))
        with module.register_forward_pre_hook(lambda m, args: calls.append(len(args[0]))):
            made.measure()
        calls.append(0)
    assert calls == [40, 0, *[10] * 16, 0]  # 6 channels of 7 x 7: ten images in 3,000 elements
    assert ends == [40, *[10] * 4]  # of a pass for one norm nothing behind it is computed


def test_a_far_mean_costs_the_variance_nothing():
    module = nn.Sequential(nn.BatchNorm1d(1)).eval()
    x = 1e4 + torch.randn(500, 1, generator=torch.Generator().manual_seed(0))
    variance = Remeasuring(network_of_norms(module), x, "cpu").measure()["0.running_var"]
    assert variance == pytest.approx(float(x.double().var()), rel=1e-6)


def test_the_network_has_the_new_statistics_and_its_modes_afterwards():
    module = deep()
    module.bn1.train()
    new = remeasured(module, images())
    assert module.bn1.training and not module.bn2.training
    for name, value in new.items():
        held = module.state_dict()[name]
        assert np.array_equal(held.numpy(), value.astype(np.float32))
    assert int(module.bn1.num_batches_tracked) == 0
    assert all(not part._forward_pre_hooks for part in module.modules())


def test_the_writer_knows_what_it_has_not_written_itself():
    module = deep()
    network = network_of(module)
    writer = WeightWriter(module, network.state)
    method = Uniform(UniformOptions())
    prepared = method.prepare(Preparation(network, {}, seed=0, n_threads=1))
    shared = method.compress(prepared, Candidate.of({"k": 9}), network=network)
    writer.write(shared)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    adjusted = Remeasuring(network, images(), "cpu").apply(writer, shared)
    for name, value in adjusted.decoded().items():
        assert np.array_equal(module.state_dict()[name].numpy(), value)
    assert not torch.equal(module.bn1.running_mean, before["bn1.running_mean"])
    writer.write(shared)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_measuring_twice_changes_nothing():
    module = deep()
    first, second = (remeasured(module, images()) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.other = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.other(self.bn(self.bn(x)))


class SharedStatistics(Twice):
    def __init__(self):
        super().__init__()
        self.third = nn.BatchNorm1d(3)
        self.third.running_mean = self.bn.running_mean

    def forward(self, x):
        return self.other(self.bn(x))


class Subclass(nn.BatchNorm1d):
    pass


class Replaced(Twice):
    def __init__(self, norm):
        super().__init__()
        self.bn = norm

    def forward(self, x):
        return self.other(self.bn(x))


class Unused(Twice):
    def forward(self, x):
        return self.other(x)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Twice, "called 2 times"),
        (Unused, "called 0 times"),
        (SharedStatistics, "another module's as well"),
        (lambda: Replaced(Subclass(3)), "Subclass"),
        (lambda: Replaced(nn.BatchNorm1d(3, track_running_stats=False)), "no running statistics"),
    ],
)
def test_what_keeps_its_statistics_is_named(make, reason):
    module = make().eval()
    x = torch.randn(20, 3)
    made = Remeasuring(network_of_norms(module), x, "cpu")
    assert reason in made.left["bn"]
    assert any(note.startswith("bn keeps its own") and reason in note for note in made.notes)
    assert "of 1 BatchNorm are measured again on 20 calibration images" in made.notes[0]
    assert made.measure().keys() == {"other.running_mean", "other.running_var"}


def network_of_norms(module):
    """A network of nothing but norms has nothing to share but those."""
    return Network(module, read_state(module, all=True), "test")


def test_one_image_has_no_variance():
    with pytest.raises(InputError, match="not measured on 1 image"):
        Remeasuring(network_of(deep()), images(1), "cpu")


def test_without_a_calibration_split_it_says_what_is_missing():
    with pytest.raises(InputError, match=r"add \[data\.splits\.calibration\], or calibration="):
        calibration_images({}, 10, 0)


def test_kept_tensors_that_are_no_statistics_are_left():
    module = deep()
    before = keep_all(read_state(module))
    remeasured(module, images())
    after = keep_all(read_state(module))
    moved = {n for n in before if not np.array_equal(before[n].values, after[n].values)}
    norms = [n for n, part in module.named_modules() if isinstance(part, NORM_TYPES)]
    assert moved == {f"{n}.running_{s}" for n in norms for s in ("mean", "var")}
