"""Writing a candidate's weights, against copying them and against the forward pass it precedes."""

import time

import numpy as np
import pytest
import torch

from moeash.core.codebook import Codebook, index_dtype, keep_all, share
from moeash.networks.loading.sources import load_network
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import WeightWriter, slot

pytestmark = pytest.mark.benchmark


def best_of(n, function):
    times = []
    for _ in range(n):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("n_entries", [32, 256, 4096])
def test_gathering_25m_weights_against_copying_them(n_entries, capsys):
    size = 25_000_000
    rng = np.random.default_rng(0)
    codebook = Codebook(np.arange(n_entries, dtype=np.float32))
    indices = rng.integers(0, n_entries, size).astype(index_dtype(n_entries))
    weights, source = torch.zeros(size), np.ones(size, np.float32)
    target = slot(weights)
    copy = best_of(3, lambda: np.copyto(weights.numpy(), source))
    gather = best_of(3, lambda: target.gather(codebook, indices))
    plain = best_of(3, lambda: codebook.entries[indices])
    with capsys.disabled():
        print(
            f"\ngather 25M, {n_entries} entries: {gather / copy:.1f} x copyto ({gather:.3f} s), "
            f"{gather / plain:.2f} x plain indexing"
        )


def test_writing_resnet20_against_evaluating_5000_images(capsys):
    module = load_network("resnet20", weights="random")
    state = read_state(module)
    rng = np.random.default_rng(0)
    codebook = Codebook(np.arange(96, dtype=np.float32))
    assigned = {}
    for p in state:
        if p.role == "shared":
            indices = rng.integers(0, 96, p.values.size).astype(np.uint8)
            assigned[p.name] = (0, indices, np.bincount(indices, minlength=96))
    writer = WeightWriter(module, state)
    written = []

    def write():
        written.append(share(state, [codebook], assigned, keep_all(state)))
        writer.write(written[-1])

    write_s = best_of(20, write)
    images = torch.zeros(250, 3, 32, 32)
    with torch.inference_mode():
        forward_s = 20 * best_of(2, lambda: module(images))
    with capsys.disabled():
        print(f"\nwrite {write_s * 1e3:.2f} ms = {100 * write_s / forward_s:.3f} % of 5,000 images")
