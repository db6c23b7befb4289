"""Folding BatchNorms: the same function, what is left and why, and decoded into the same module."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moeash.compression.folding import Folding, fold_norms, some_images
from moeash.core.codebook import keep_all
from moeash.core.kept import Keeping
from moeash.errors import InputError
from moeash.networks.network import Network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import WeightWriter


def disturbed(module):
    """Give every norm the vectors of a trained one: negative and zero factors, a dead channel."""
    torch.manual_seed(0)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                if part.affine:
                    part.weight.normal_()
                    part.weight[0] = 0
                    part.bias.normal_()
                if part.track_running_stats:
                    part.running_mean.normal_()
                    part.running_var.uniform_(0.1, 3)
                    part.running_var[-1] = 0
    return module.eval()


def folded(module, *shape, **options) -> Folding:
    network = Network(module, read_state(module, **options), "test")
    return fold_norms(network, torch.randn(8, *shape, generator=torch.Generator().manual_seed(1)))


def outputs(module, *shape):
    with torch.inference_mode():
        return module(torch.randn(32, *shape, generator=torch.Generator().manual_seed(2)))


def is_identity(norm):
    """Tell whether a norm does nothing but add a constant."""
    slope = 1 if norm.weight is None else norm.weight
    return bool((slope / torch.sqrt(norm.running_var + norm.eps) == 1).all())


def same(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


CASES = {
    "conv": (
        nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
        (3, 8, 8),
    ),
    "conv with bias": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)), (3, 8, 8)),
    "linear": (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh()), (5,)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (4, 8, 8)),
    "depthwise": (
        nn.Sequential(nn.Conv2d(4, 8, 3, groups=4, bias=False), nn.BatchNorm2d(8)),
        (4, 8, 8),
    ),
    "1d": (nn.Sequential(nn.Conv1d(4, 8, 3), nn.BatchNorm1d(8)), (4, 8)),
    "3d": (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 4, 4, 4)),
    "no factors": (nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)), (3, 8, 8)),
    "no factors, no bias": (
        nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6, affine=False)),
        (3, 8, 8),
    ),
    "float64": (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)).double(), (5,)),
}


@pytest.mark.parametrize("case", CASES)
def test_folding_keeps_the_function_and_leaves_norms_that_only_add(case):
    module, shape = copy.deepcopy(CASES[case])
    module = disturbed(module)
    dtype = next(module.parameters()).dtype
    x = torch.randn(32, *shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    expected, weight = module(x).detach(), module[0].weight.clone()
    network = Network(module, read_state(module), "test")
    result = fold_norms(network, x[:8])
    assert result.left == {} and result.network.folded == {"1"}
    assert is_identity(module[1]) and not torch.equal(module[0].weight, weight)
    assert same(module(x).detach(), expected)
    if module[0].bias is not None:
        assert not module[1].running_mean.any()
        assert module[1].bias is None or not module[1].bias.any()


def test_the_state_returned_is_that_of_the_folded_module():
    module = disturbed(CASES["conv"][0])
    result = folded(module, 3, 8, 8)
    now = {p.name: p for p in read_state(module)}
    for parameter in result.network.state:
        assert np.array_equal(parameter.values, now[parameter.name].values)
        assert parameter.role == now[parameter.name].role
        assert not parameter.values.flags.writeable


class Residual(nn.Module):
    """conv - bn - relu - conv - bn, and a shortcut with a norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.shortcut = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu_(self.bn1(self.conv1(x)))))
        return self.fc(F.relu(y + self.shortcut(x)).mean((2, 3)))


def test_every_norm_of_a_residual_block_is_folded():
    module = disturbed(Residual())
    expected = outputs(module, 3, 8, 8)
    result = folded(module, 3, 8, 8)
    assert result.network.folded == {"bn1", "bn2", "shortcut.1"}
    assert result.notes == ("3 BatchNorms are folded into the layers before them",)
    assert same(outputs(module, 3, 8, 8), expected)


def test_a_folded_network_costs_the_file_one_vector_a_norm():
    module = disturbed(Residual())
    state = folded(module, 3, 8, 8).network.state
    stored = Keeping("float16", find_norms(module, state)).stored(keep_all(state))
    for name in ("bn1", "bn2"):
        assert (stored[f"{name}.weight"].values == 1).all()
        assert len(np.unique(stored[f"{name}.running_mean"].values)) == 1
        assert len(np.unique(stored[f"{name}.running_var"].values)) == 1


# ------------------------------------------------------------------ what is left as it is


class Two(nn.Module):
    """A module of two layers and a norm that its subclasses put to some use."""

    def __init__(self, norm=None):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6) if norm is None else norm


class SharedNorm(Two):
    def forward(self, x):
        return self.norm(self.b(self.norm(self.a(x))))


class LayerReadTwice(Two):
    def forward(self, x):
        y = self.a(x)
        return self.b(self.norm(y)) + y


class PreActivation(Two):
    def forward(self, x):
        return self.b(F.relu(self.norm(F.relu(self.a(x)))))


class InPlaceBefore(Two):
    def forward(self, x):
        y = self.a(x)
        F.relu_(y)
        return self.b(self.norm(y))


class LayerUsedTwice(Two):
    def forward(self, x):
        return self.norm(self.a(self.a(x)))


class WeightReadElsewhere(Two):
    def forward(self, x):
        return self.norm(self.a(x)) + self.a.weight.sum()


class Tied(Two):
    def __init__(self):
        super().__init__()
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.norm(self.a(x))


class StatisticsRead(Two):
    def forward(self, x):
        return self.norm(self.a(x)) + self.norm.running_mean.sum()


class Uncalled(Two):
    def forward(self, x):
        return self.b(self.a(x))


class Sequences(Two):
    """The norm's channels are positions, six of them as well, not the layer's rows."""

    def forward(self, x):
        return self.norm(self.a(x[:, :, None].expand(-1, -1, 6))).sum(2)


class OutputReturned(Two):
    def forward(self, x):
        y = self.a(x)
        return self.norm(y), y


class Subclass(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x) * 2


class Plain(Two):
    def forward(self, x):
        return self.norm(self.a(x))


def computed_bias():
    module = Plain()
    nn.utils.parametrize.register_parametrization(module.a, "bias", nn.Tanh())
    return module


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (SharedNorm, "called 2 times"),
        (LayerReadTwice, "something else reads the output of 'a.weight'"),
        (PreActivation, "not handed the output of a linear layer"),
        (InPlaceBefore, "something else reads the output of 'a.weight'"),
        (LayerUsedTwice, "'a.weight' is used elsewhere too"),
        (WeightReadElsewhere, "'a.weight' is used elsewhere too"),
        (Tied, "'a.weight' is used elsewhere too"),
        (StatisticsRead, "something else reads its vectors"),
        (Uncalled, "does not call it"),
        (Sequences, "channels are not the rows of 'a.weight'"),
        (OutputReturned, "something else reads the output of 'a.weight'"),
        (computed_bias, "bias with 'a.weight' is computed"),
        (lambda: Plain(Subclass(6)), "Subclass"),
        (lambda: Plain(nn.BatchNorm1d(6, track_running_stats=False)), "no running statistics"),
        (lambda: Plain(nn.BatchNorm1d(6, eps=2.0)), "eps of 2"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_folded_is_named_and_left_as_it_was(make, reason):
    module = disturbed(make())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    result = folded(module, 6)
    assert result.network.folded == frozenset()
    assert list(result.left) == ["norm"] and reason in result.left["norm"]
    assert any("norm is not folded" in note and reason in note for note in result.notes)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_norm_whose_vectors_are_to_be_shared_is_left():
    module = disturbed(Plain())
    result = folded(module, 6, all=True)
    assert "among the weights to share" in result.left["norm"]


class ReadUnseen(Two):
    """The first layer's output is read behind torch's back; the second one's is not."""

    def __init__(self):
        super().__init__()
        self.norm2 = nn.BatchNorm1d(6)

    def forward(self, x):
        y = self.a(x)
        z = self.norm(y)
        with torch._C.DisableTorchFunction():
            z = z + y
        return self.norm2(self.b(z))


def test_only_the_norm_that_moves_the_outputs_is_left_when_its_reader_was_not_seen():
    module = disturbed(ReadUnseen())
    expected = outputs(module, 6)
    result = folded(module, 6)
    assert result.network.folded == {"norm2"}
    assert "moves the outputs" in result.left["norm"]
    assert same(outputs(module, 6), expected)
    kept = {p.name: p.values for p in result.network.state}
    assert all(np.array_equal(kept[name], value) for name, value in module.state_dict().items())


class Opaque(Plain):
    def forward(self, x):
        self.result = super().forward(x)
        return "done"


def test_a_network_that_returns_no_tensor_is_left_alone():
    result = folded(disturbed(Opaque()), 6)
    assert "no tensor" in result.left["norm"] and not result.network.folded


def test_modes_are_left_as_they_were_and_statistics_do_not_move():
    module = disturbed(Residual()).train()
    module.bn2.eval()
    folded(module, 3, 8, 8)
    assert module.training and module.bn1.training and not module.bn2.training
    assert not module.bn1.running_mean.any()


def test_the_weights_before_come_back():
    module = disturbed(Residual())
    state = read_state(module)
    before = copy.deepcopy(module.state_dict())
    folded(module, 3, 8, 8)
    WeightWriter(module, state).restore()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_without_images_there_is_a_reason():
    with pytest.raises(InputError, match="calibration="):
        some_images({})
