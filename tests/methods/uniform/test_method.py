"""The base method: nearest bins of one global codebook."""

import re

import pytest
import torch
from torch import nn

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.variables import Integer
from moeash.errors import InputError
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import MethodContract, digits_network, prepare


class TestUniform(MethodContract):
    @pytest.fixture(
        scope="class",
        params=[
            UniformOptions(k=(2, 40)),
            UniformOptions(k=(3, 41), zero_aligned=True),
            UniformOptions(k=(2, 40), centre="midpoint", clip=(-0.3, 0.4)),
        ],
        ids=["mean", "zero aligned", "clipped midpoints"],
    )
    @classmethod
    def options(cls, request):
        return request.param


def test_shifted_to_zero_eight_bins_can_be_nine_and_are_counted():
    network, method = digits_network(), Uniform(UniformOptions(k=(8, 8), zero_aligned=True))
    prepared = prepare(method, network, {})
    shared = method.compress(prepared, Candidate.of({"k": 8}), network=network)
    assert shared.n_entries == method.most_entries(prepared) == 9


@pytest.mark.parametrize(("worst", "finest"), [(0.0, 256), (50.0, 830), (1e6, 1 << 16)])
def test_a_method_without_k_goes_as_far_as_the_spread_of_the_weights_asks(worst, finest):
    many, few = nn.Linear(400, 100), nn.Linear(2, 1)
    with torch.no_grad():
        many.weight.copy_(torch.randn(100, 400).clamp(-2, 2))
        few.weight.copy_(torch.tensor([[-worst, worst]]))
    module, method = nn.Sequential(many, few), Uniform(UniformOptions())
    network = Network(module, read_state(module), "linear")
    (k,) = method.space(prepared := prepare(method, network, {}))
    assert (k.name, k.low) == ("k", 2) and k.high == pytest.approx(finest, rel=0.2)
    assert k.widest == min(4 * k.high, 1 << 16)
    made = method.compress(prepared, Candidate.of({"k": k.widest}), network=network)
    assert made.n_entries <= method.most_entries(prepared)
    assert method.space()[0].highest >= k.widest, "without preparing bounds are as wide as any"


def test_bounds_that_a_person_gave_hold():
    method = Uniform(UniformOptions(k=(2, 40)))
    assert method.space(prepare(method, digits_network(), {})) == (Integer("k", 2, 40),)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": (5, 4)}, "method.k is [5, 4], needed [low, high] with 1 <= low <= high"),
        ({"k": (0, 4)}, "method.k[0] is 0, needed an integer of at least 1"),
        ({"clip": (1.0, 1.0)}, "method.clip is [1.0, 1.0], needed [low, high] with low < high"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        UniformOptions(**wrong)
