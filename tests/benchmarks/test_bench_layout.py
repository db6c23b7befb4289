"""What images with their channels beside each other are worth: processor time of forward passes."""

import statistics
import time

import pytest
import torch
from torchvision import models

from moeash.evaluation.forward import Forward
from moeash.runtime.heap import freed_memory_kept

pytestmark = pytest.mark.benchmark

NETWORKS = {
    "mobilenet_v2": (models.mobilenet_v2, (16, 3, 224, 224)),
    "resnet18": (models.resnet18, (16, 3, 224, 224)),
    "squeezenet1_1": (models.squeezenet1_1, (16, 3, 224, 224)),
    "mobilenet_v2 on pictures of 32": (models.mobilenet_v2, (250, 3, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_passes_with_channels_last(name):
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    plain, images = Forward(build().eval(), "cpu"), torch.randn(shape)
    fastest = plain.fastest(images[:2])
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with freed_memory_kept():
            spent = {forward: [] for forward in (plain, fastest)}
            for _ in range(4):
                for forward, times in spent.items():
                    started = time.process_time()
                    forward(images)
                    times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(n_threads)
    slow, fast = (statistics.median(times[1:]) for times in spent.values())
    print(f"\n{name}: {fast:.2f} s of CPU, as they are {slow:.2f} s ({slow / fast:.2f} x)")
    assert fastest.channels_last
