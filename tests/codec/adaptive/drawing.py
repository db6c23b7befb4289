"""Indices to code, and what is done to streams."""

import importlib.util
import math

import hypothesis.strategies as st
import numpy as np
from numpy.testing import assert_array_equal

from moeash.codec.adaptive import coder as adaptive
from moeash.core.codebook import index_dtype


def load_module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ALPHABETS = [1, 2, 3, 41, 300, 5_000]


def draw_tensor(rng, shape, n_entries, zero, scale):
    """Laplacian indices whose rows differ in scale and whose columns lean to one sign."""
    shape = tuple(shape)
    rows = shape[0] if len(shape) > 1 else 1
    values = rng.laplace(size=(rows, math.prod(shape) // max(rows, 1))) * scale
    values *= rng.gamma(2, 0.5, size=(rows, 1))
    values += np.sign(rng.normal(size=values.shape[1])) * scale * 0.3
    indices = np.clip(np.rint(values + zero), 0, n_entries - 1)
    return indices.astype(index_dtype(n_entries)).ravel(), shape


@st.composite
def problems(draw, n_tensors=3, n_weights=240):
    """Tensors of up to five axes whose channels often equal the rows before, and an alphabet."""
    n_entries = draw(st.sampled_from(ALPHABETS) | st.integers(1, 70_000))
    zero = draw(st.sampled_from([0, n_entries - 1, n_entries // 2]) | st.integers(0, n_entries - 1))
    scale = draw(st.sampled_from([0.05, 0.7, 4.0, 3e4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensors, rows = [], 1
    for n_axes in draw(
        st.lists(st.sampled_from([4, 2, 1, 3, 5, 0]), min_size=1, max_size=n_tensors)
    ):
        # Extents from the generator: hypothesis prefers 0, and one tensor without weights will do.
        shape, room = [], draw(st.sampled_from([n_weights, n_weights, 40, 0]))
        for axis in range(n_axes):
            reads_rows = axis == 1 and rows <= room and rng.random() < 0.5
            shape.append(rows if reads_rows else int(rng.integers(room > 0, min(9, room) + 1)))
            room //= max(shape[-1], 1)
        tensors.append(draw_tensor(rng, shape, n_entries, zero, scale))
        rows = shape[0] if len(shape) > 1 else 1
    return tensors, n_entries, zero


def shapes_of(tensors):
    return [shape for _, shape in tensors]


def encoded_bytes(tensors, n_entries, zero, **options):
    return len(adaptive.encode(tensors, n_entries, zero, **options))


def assert_round_trip(tensors, n_entries, zero, shift=0):
    data = adaptive.encode(tensors, n_entries, zero, shift=shift)
    decoded = adaptive.decode(data, shapes_of(tensors), n_entries, zero, shift=shift)
    for got, (indices, _) in zip(decoded, tensors, strict=True):
        assert got.dtype == index_dtype(n_entries)
        assert_array_equal(got, indices)
    return data


def order0_bytes(tensors):
    bits = 0.0
    for indices, _ in tensors:
        counts = np.bincount(indices)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / 8


def hostile_streams(rng, stream, n):
    for _ in range(n):
        kind = rng.integers(3)
        if kind == 0:
            yield rng.bytes(int(rng.integers(0, 2 * len(stream) + 12)))
        elif kind == 1:
            altered = bytearray(stream)
            for _ in range(rng.integers(1, 4)):
                altered[rng.integers(len(altered))] ^= 1 << int(rng.integers(8))
            yield bytes(altered)
        else:
            yield bytes([rng.choice([0, 255])]) * int(rng.integers(0, 2 * len(stream) + 12))
