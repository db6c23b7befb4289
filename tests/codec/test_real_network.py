"""The ResNet-20 the studies use, shared by uniform bins of one codebook."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from moeash.codec import container
from moeash.codec.size import size
from moeash.core.codebook import Codebook, Parameter, index_dtype, keep_all, share
from moeash.core.kept import Keeping
from tests.entropy import entropy_bits

pytestmark = pytest.mark.realdata

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("MOEASH_DATA", ROOT.parent / "shared" / "data"))
CHECKPOINT = DATA / "models" / "resnet20-cifar10-jpeg.safetensors"


def uniform_bins(k):
    """Share all weights of two or more dimensions by the means of k uniform bins."""
    if not CHECKPOINT.exists():
        pytest.skip(f"no {CHECKPOINT}; set MOEASH_DATA")
    arrays = load_file(CHECKPOINT)
    roles = {name: "shared" if a.ndim > 1 else "kept" for name, a in arrays.items()}
    state = [Parameter(n, a.shape, a.dtype.name, roles[n], a) for n, a in arrays.items()]
    weights = {n: a.reshape(-1).astype(float) for n, a in arrays.items() if roles[n] == "shared"}
    everything = np.concatenate(list(weights.values()))
    low, high = everything.min(), everything.max()
    bins = {
        n: np.minimum((w - low) / (high - low) * k, k - 1).astype(int) for n, w in weights.items()
    }
    joined = np.concatenate(list(bins.values()))
    present, inverse = np.unique(joined, return_inverse=True)
    book = Codebook(np.bincount(inverse, everything) / np.bincount(inverse))
    assigned = {}
    for name, bin_of in bins.items():
        indices = np.searchsorted(present, bin_of).astype(index_dtype(len(book)))
        assigned[name] = 0, indices, np.bincount(indices, minlength=len(book))
    return Keeping("float16").apply(share(state, [book], assigned, keep_all(state)))


@pytest.mark.parametrize("k", [16, 64, 128])
def test_indices_and_tables_are_within_a_percent_of_the_entropy_of_each_tensor(k):
    shared = uniform_bins(k)
    report = size(shared)
    ideal = sum(entropy_bits(t.counts) for t in shared.shared) / 8
    assert ideal < report.indices + report.tables < 1.01 * ideal
    assert report.header < 400
    assert report.kept < 2 * shared.n_kept  # float16 and some int64, with nothing lost
    assert Counter(t.role for t in report.tensors)["shared"] == 20


@pytest.mark.parametrize("coder", ["ans", "huffman", "adaptive"])
def test_the_file_decodes_to_the_same_network(coder):
    shared = uniform_bins(64)
    data = container.encode(shared, coder=coder, notes={"network": "resnet20"})
    assert len(data) == size(shared, coder=coder, notes={"network": "resnet20"}).total
    decoded = container.decode(data).shared
    assert decoded.fingerprint() == shared.fingerprint()
    assert [t.name for t in decoded.tensors] == [t.name for t in shared.tensors]
