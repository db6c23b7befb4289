import pytest
import torch
from torch import nn

from moeash.networks.writing.places import Places


def network():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))


def channels_last(module):
    module.to(memory_format=torch.channels_last)


def replaced(module):
    module[3].weight.data = module[3].weight.data.clone()


def shared(module):
    module.share_memory()


def half(module):
    module.half()


def another(module):
    module[3].weight = nn.Parameter(module[3].weight.detach().clone())


def buffer(module):
    module[1].running_mean = module[1].running_mean.clone()


def transposed(module):
    module[3].weight.data = module[3].weight.data.t().contiguous().t()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (channels_last, "0.weight"),
        (replaced, "3.weight"),
        (shared, "3.weight"),
        (half, "0.bias"),
        (another, "3.weight"),
        (buffer, "1.running_mean"),
        (transposed, "3.weight"),
    ],
)
def test_every_way_of_moving_a_tensor_is_noticed(change, name):
    module = network()
    places = Places.of(module)
    change(module)
    assert name in places.moved()


def test_reading_running_and_writing_in_place_move_nothing():
    module = network()
    places = Places.of(module)
    module(torch.randn(2, 3, 3, 3))
    module.eval()
    with torch.no_grad():
        module[3].weight.mul_(2)
    module.to("cpu").float()
    assert places.moved() == []
