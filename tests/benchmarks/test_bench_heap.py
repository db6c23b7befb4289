"""What keeping freed memory is worth: processor time of forward passes, and memory at the peak."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

PROBE = """
import os, resource, sys
from contextlib import nullcontext
import torch
from torchvision import models
from moeash.runtime.heap import freed_memory_kept

def spent():
    times = os.times()
    return times.user + times.system

torch.set_num_threads(1)
network, size, n_images = {
    "efficientnet_b0": (models.efficientnet_b0, 224, 50),
    "resnet18": (models.resnet18, 224, 50),
    "resnet18 on pictures of 32": (models.resnet18, 32, 250),
}[sys.argv[1]]
network, images = network().eval(), torch.randn(n_images, 3, size, size)
with torch.inference_mode(), freed_memory_kept() if sys.argv[2] == "kept" else nullcontext():
    network(images)
    before = spent()
    for _ in range(2):
        network(images)
    print(spent() - before)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.parametrize("network", ["efficientnet_b0", "resnet18", "resnet18 on pictures of 32"])
def test_forward_passes_with_freed_memory_kept(network):
    found = {"as usual": [], "kept": []}
    for _ in range(3):
        for way, rows in found.items():
            done = subprocess.run(
                [sys.executable, "-c", PROBE, network, way],
                capture_output=True,
                text=True,
                check=True,
            )
            rows.append([float(line) for line in done.stdout.split()])
    (usual, peak), (kept, higher) = (sorted(rows)[1] for rows in found.values())
    print(
        f"\n{network}: kept {kept:.2f} s of CPU, as usual {usual:.2f} s ({usual / kept:.2f} x); "
        f"peak {higher:.0f} MiB, as usual {peak:.0f} MiB"
    )
