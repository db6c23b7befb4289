"""What the codec costs; ratios against something measured in the same run. Asserts no time."""

import time

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.size import size
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, index_dtype

pytestmark = pytest.mark.benchmark


def seconds(function, repeats):
    best = np.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - begin)
    return best


def network(sizes, n_entries, kept=()):
    rng = np.random.default_rng(0)
    book = Codebook(np.unique(rng.normal(size=n_entries).astype(np.float32)))
    tensors = []
    for i, n in enumerate(sizes):
        drawn = np.rint(rng.normal(size=n) * n_entries / (5 + i % 6) + n_entries / 2)
        indices = np.clip(drawn, 0, len(book) - 1).astype(index_dtype(len(book)))
        counts = np.bincount(indices, minlength=len(book))
        tensors.append(SharedTensor(f"layer{i}.weight", (n,), "float32", 0, indices, counts))
    for i, n in enumerate(kept):
        values = rng.normal(size=n).astype(np.float16)
        tensors.append(KeptTensor(f"layer{i}.bias", (n,), "float32", values))
    return SharedWeights((book,), tuple(tensors))


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_decoding_eleven_million_weights(coder, capsys):
    shared = network([550_000] * 20, 64)
    data = container.encode(shared, coder=coder)
    copy = seconds(lambda: [t.indices.copy() for t in shared.shared], 3)
    decode = seconds(lambda: container.decode(data), 3)
    encode = seconds(lambda: container.encode(shared, coder=coder), 1)
    with capsys.disabled():
        print(
            f"\n{coder}: 11M weights, {len(data)} bytes: decode {decode:.2f} s "
            f"({decode / copy:.0f} x copying the indices), encode {encode:.2f} s"
        )
    assert container.decode(data).shared.fingerprint() == shared.fingerprint()


@pytest.mark.parametrize("coder", ["ans", "huffman"])
@pytest.mark.parametrize("n_entries", [60, 1000])
def test_sizing_one_candidate_of_a_resnet20(coder, n_entries, capsys):
    sizes = [432, *[2304] * 6, 4608, *[9216] * 5, 18_432, *[36_864] * 5, 640]
    shared = network(sizes, n_entries, kept=[16, 32, 64] * 25)
    whole = seconds(lambda: container.encode(shared, coder=coder), 5)
    one = seconds(lambda: size(shared, coder=coder), 30)
    with capsys.disabled():
        print(
            f"\n{coder}: size() of a candidate with {n_entries} entries {one * 1e3:.2f} ms, "
            f"{whole / one:.1f} x faster than encoding it"
        )
    assert size(shared, coder=coder).total == len(container.encode(shared, coder=coder))
