"""What a run is made of, whether torch's compiler is there or not."""

import pytest
import torch
from torch import nn

from moeash.tracing.derived import Derivations, weights_of


def followed(network, x, names):
    weights = {name: network.get_parameter(name) for name in names}
    seen = Derivations(weights, ((x,), {}))
    with seen, torch.no_grad():
        returned = network(x)
    seen.finish(returned)
    return weights_of(seen.reached), returned


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).eval()


NAMES = ["0.weight", "1.bias", "3.weight"]


def test_a_run_is_made_of_the_weights_it_reads(network):
    reached, returned = followed(network, x := torch.randn(3, 4), NAMES)
    assert reached == set(NAMES)
    with torch.no_grad():
        assert torch.equal(returned, network(x))
    assert followed(network[:2], x, ["0.weight", "1.bias"])[0] == {"0.weight", "1.bias"}


@pytest.mark.slow
def test_a_compiled_network_is_followed_and_its_compiler_leaves_the_follower_alone(network):
    x = torch.randn(3, 4)
    plain, expected = followed(network, x, NAMES)
    compiled = torch.compile(network, backend="eager")
    compiled(x)
    names = [f"_orig_mod.{name}" for name in NAMES]
    reached, returned = followed(compiled, x, names)
    assert {name.removeprefix("_orig_mod.") for name in reached} == plain
    torch.testing.assert_close(returned, expected)
