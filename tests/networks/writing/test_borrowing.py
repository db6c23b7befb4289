"""A network run with other weights in its own memory, and given back as it was."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from moeash.core.codebook import keep_all
from moeash.networks.parameters import read_state
from moeash.networks.writing.borrowing import Borrowed, TwoVersions
from moeash.networks.writing.inplace import WeightWriter


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(36, 3)
        self.tied = nn.Linear(36, 3)
        self.tied.weight = self.fc.weight
        self.lock = threading.Lock()  # so it cannot be copied

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).flatten(1))


def network():
    module = Net().train()
    module.norm.eval()
    return module


def snapshot(module):
    state = {name: value.clone() for name, value in module.state_dict().items()}
    return state, [part.training for part in module.modules()]


def same(before, module):
    state, modes = before
    now = module.state_dict()
    return modes == [part.training for part in module.modules()] and all(
        torch.equal(value, now[name]) for name, value in state.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_everything_is_given_back_bit_for_bit(dtype):
    module = network().to(dtype)
    before, places = snapshot(module), [p.data_ptr() for p in module.parameters()]
    with Borrowed(module) as borrowed:
        assert not any(part.training for part in module.modules())
        borrowed.put({"conv.weight": torch.zeros(4, 18), "norm.running_mean": torch.ones(4)})
        assert not same(before, module)
        assert not module.conv.weight.any() and module.norm.running_mean.eq(1).all()
        module.norm.num_batches_tracked += 5  # as a forward pass may do
        module(torch.randn(5, 2, 5, 5, dtype=dtype))
    assert same(before, module)
    assert places == [p.data_ptr() for p in module.parameters()]


def test_everything_is_given_back_after_an_error():
    module = network()
    before = snapshot(module)
    with pytest.raises(KeyboardInterrupt), Borrowed(module) as borrowed:
        borrowed.put({"fc.bias": torch.ones(3)})
        raise KeyboardInterrupt
    assert same(before, module)


def test_it_can_begin_with_a_float_state_whatever_the_module_holds():
    module = network()
    state = read_state(module)
    float_weight = module.fc.weight.detach().clone()
    with torch.no_grad():
        module.fc.weight.fill_(7)
    before = snapshot(module)
    with Borrowed(module, state):
        assert torch.equal(module.fc.weight, float_weight)
        assert module.tied.weight is module.fc.weight
    assert same(before, module)


def test_gradients_work_inside_and_afterwards():
    module = network()
    with Borrowed(module) as borrowed:
        borrowed.put({"fc.weight": torch.ones(3, 36)})
        module(torch.randn(5, 2, 5, 5)).sum().backward()
    module(torch.randn(5, 2, 5, 5)).sum().backward()
    assert module.conv.weight.grad is not None


def test_weights_made_in_inference_mode_can_be_borrowed_too():
    with torch.inference_mode():
        module = nn.Linear(3, 3)
    before = snapshot(module)
    with Borrowed(module) as borrowed:
        borrowed.put({"weight": torch.zeros(3, 3)})
        assert not module.weight.any()
    assert same(before, module)


def test_a_writer_of_the_module_is_not_confused():
    module = network()
    state = read_state(module)
    writer = WeightWriter(module, state)
    own = [replace(p, role="kept") for p in state if p.role != "tied"]
    kept = list(keep_all(own).values())
    writer.write_kept(kept)
    with Borrowed(module) as borrowed:
        borrowed.put({p.name: torch.zeros(p.shape) for p in own})
    writer.write_kept(kept)  # arrays it wrote last time are not written again
    for tensor in kept:
        assert np.array_equal(module.state_dict()[tensor.name].numpy(), tensor.values)


def test_two_versions_of_a_network_take_turns():
    module = network()
    first = module.fc.bias.detach().clone()
    before = snapshot(module)
    with Borrowed(module) as borrowed:
        versions = TwoVersions(borrowed)
        versions.replace({"fc.bias": torch.ones(3)})
        assert versions.be_second().fc.bias.eq(1).all()
        assert torch.equal(versions.be_first().fc.bias, first)
        versions.be_second()
        versions.replace({"fc.bias": torch.zeros(3), "norm.bias": torch.full((4,), 2.0)})
        assert torch.equal(versions.be_first().fc.bias, first)
        assert not module.norm.bias.eq(2).any()
        second = versions.be_second()
        assert not second.fc.bias.any() and second.norm.bias.eq(2).all()
    assert same(before, module)
