"""The adaptive coder against order-0 entropy, constriction's ANS and the memory bus, in one run."""

import statistics
import time

import constriction
import numpy as np
import pytest
from safetensors.numpy import load_file

from moeash.codec.adaptive import coder as adaptive
from moeash.core.codebook import index_dtype

pytestmark = pytest.mark.benchmark

NETWORKS = ["resnet20-cifar10-jpeg", "lenet300", "lenet5"]


def median_seconds(function, n=5):
    times = []
    for _ in range(n):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def compare(name, tensors, n_entries, zero, capsys):
    shapes = [shape for _, shape in tensors]
    shift = adaptive.choose_shift(tensors, zero)
    data = adaptive.encode(tensors, n_entries, zero, shift=shift)
    in_ones = len(adaptive.encode(tensors, n_entries, zero))
    size = sum(indices.size for indices, _ in tensors)
    encode = median_seconds(lambda: adaptive.encode(tensors, n_entries, zero, shift=shift))
    decode = median_seconds(lambda: adaptive.decode(data, shapes, n_entries, zero, shift=shift))

    counts = [np.bincount(indices, minlength=n_entries) for indices, _ in tensors]
    models = [
        constriction.stream.model.Categorical(c.astype(np.float32) + 1e-3, perfect=False)
        for c in counts
    ]
    symbols = [indices.astype(np.int32) for indices, _ in tensors]

    def ans_encode():
        coder = constriction.stream.stack.AnsCoder()
        for values, model in zip(reversed(symbols), reversed(models), strict=True):
            coder.encode_reverse(values, model)
        return coder.get_compressed()

    words = ans_encode()

    def ans_decode():
        coder = constriction.stream.stack.AnsCoder(words)
        return [coder.decode(m, v.size) for m, v in zip(models, symbols, strict=True)]

    source = np.zeros(max(size, 1 << 25), np.uint8)
    target = np.empty_like(source)
    copy = median_seconds(lambda: np.copyto(target, source)) / source.size * size
    entropy = -sum(float((c[c > 0] * np.log2(c[c > 0] / c.sum())).sum()) for c in counts) / 8
    ans = median_seconds(ans_encode), median_seconds(ans_decode)
    with capsys.disabled():
        print(
            f"\n{name}: {size:,} weights of {n_entries} entries in units of {2**shift}, "
            f"{len(data):,} bytes = {len(data) / in_ones:.4f} x units of one = "
            f"{len(data) / entropy:.3f} x order-0 entropy, {len(data) / words.nbytes:.3f} x ANS "
            f"without its tables; encode {size / encode / 1e6:.1f} M/s ({encode / ans[0]:.1f} x "
            f"the time of ANS), decode {size / decode / 1e6:.1f} M/s ({decode / ans[1]:.1f} x the "
            f"time of ANS, {decode / copy:.0f} x copying the indices)"
        )


@pytest.mark.realdata
@pytest.mark.parametrize("deviations", [1.3, 0.2])
@pytest.mark.parametrize("network", NETWORKS)
def test_nearest_bins_of_real_networks(network, deviations, real_data, capsys):
    state = load_file(real_data / "models" / f"{network}.safetensors")
    weights = [w for w in state.values() if w.ndim > 1]
    step = deviations * np.concatenate([w.ravel() for w in weights]).std()
    centred = [np.rint(w / step).astype(np.int64) for w in weights]
    zero = -min(int(c.min()) for c in centred)
    n_entries = zero + max(int(c.max()) for c in centred) + 1
    tensors = [((c + zero).astype(index_dtype(n_entries)).ravel(), c.shape) for c in centred]
    compare(f"{network}, {deviations} sd", tensors, n_entries, zero, capsys)


@pytest.mark.parametrize("n_entries", [3, 41, 300, 5_000])
def test_independent_laplacian_indices(n_entries, capsys):
    rng = np.random.default_rng(0)
    zero = n_entries // 2
    values = np.rint(rng.laplace(size=(1000, 1000)) * n_entries / 20 + zero)
    indices = values.clip(0, n_entries - 1).astype(index_dtype(n_entries)).ravel()
    compare("independent", [(indices, (1000, 1000))], n_entries, zero, capsys)
