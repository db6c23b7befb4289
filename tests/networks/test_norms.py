"""Which BatchNorms may be stored as two vectors, and that they are the same function."""

import pytest
import torch
from torch import nn

from moeash.core.codebook import keep_all
from moeash.core.kept import Keeping
from moeash.networks.loading.sources import load_network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import WeightWriter


class Normed(nn.Module):
    """A linear layer, for the state to have something to share, and one norm."""

    def __init__(self, norm):
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = norm

    def forward(self, x):
        return self.norm(x)


def disturbed(norm):
    """Give a norm the vectors of a trained one, one channel dead."""
    torch.manual_seed(0)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.1, 3)
        norm.running_var[0] = 0
    return norm


def names(module, **options):
    return [norm.weight for norm in find_norms(module, read_state(module, **options))]


def written(module, keeping_precision="float32"):
    """Store a network's kept tensors and load them again; return the state before."""
    state = read_state(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    keeping = Keeping(keeping_precision, find_norms(module, state))
    WeightWriter(module, state).write_kept(keeping.stored(keep_all(state)).values())
    return before


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (5, 3)),
        (nn.BatchNorm1d, (5, 3, 7)),
        (nn.BatchNorm2d, (5, 3, 4, 4)),
        (nn.BatchNorm3d, (5, 3, 2, 4, 4)),
    ],
)
@pytest.mark.parametrize("eps", [1e-5, 1e-3, 0.1])
def test_batch_norms_of_every_kind_are_the_same_function(kind, shape, eps):
    module = Normed(disturbed(kind(3, eps=eps))).eval()
    x = torch.randn(shape)
    expected = module(x)
    before = written(module)
    assert not module.norm.running_mean.any()
    assert (module(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(module.norm.num_batches_tracked, before["norm.num_batches_tracked"])
    # What is left is the scale alone, to the last bit.
    assert torch.equal(torch.sqrt(module.norm.running_var + eps), torch.ones(3))


def test_a_whole_network_is_the_same_function():
    torch.manual_seed(0)
    module = load_network("resnet20", weights="random").eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            disturbed(part)
    x = torch.randn(4, 3, 32, 32)
    expected = module(x)
    written(module)
    assert len(find_norms(module, read_state(module))) == 19
    assert 0 < (module(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


class Halved(nn.BatchNorm1d):
    """A norm of somebody's own, whose forward is not known."""

    def forward(self, x):
        return super().forward(x) / 2


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(3, affine=False),
        nn.BatchNorm1d(3, track_running_stats=False),
        nn.BatchNorm1d(3).to(torch.bfloat16),
        nn.LayerNorm(3),
        nn.GroupNorm(1, 3),
        Halved(3),
    ],
)
def test_what_is_no_plain_batch_norm_with_four_vectors_is_left_alone(norm):
    module = Normed(norm)
    assert names(module) == []
    before = written(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_norm_whose_vectors_are_shared_is_left_alone():
    module = Normed(nn.BatchNorm1d(3))
    assert names(module) == ["norm.weight"]
    assert names(module, all=True) == []
    assert names(module, all=True, exclude=["norm.bias"]) == []
    assert names(module, all=True, exclude=["norm.*"]) == ["norm.weight"]


def test_one_norm_under_two_names_counts_once():
    module = Normed(nn.BatchNorm1d(3))
    module.again = module.norm
    assert names(module) == ["norm.weight"]


@pytest.mark.parametrize("vector", ["weight", "bias", "running_mean", "running_var"])
def test_two_norms_with_one_vector_in_common_are_left_alone(vector):
    module = Normed(nn.BatchNorm1d(3))
    module.other = nn.BatchNorm1d(3)
    setattr(module.other, vector, getattr(module.norm, vector))
    module.third = nn.BatchNorm1d(3)
    assert names(module) == ["third.weight"]


def test_a_network_that_is_itself_a_norm_has_names_without_dots():
    module = nn.BatchNorm1d(3)
    module.matrix = nn.Parameter(torch.ones(2, 2))
    assert names(module) == ["weight"]
