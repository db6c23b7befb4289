"""Random tensors whose indices follow a trellis, drawn without the code under test."""

import math

import numpy as np

from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, index_dtype
from tests.codec.adaptive.twin import TRELLISES


def draw_path(rng, shape, n_entries, zero, n_states, scale):
    """Return indices ``(n,)`` and their shape: Laplacian levels, each column on its own path."""
    rows, columns = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
    scales = scale * rng.gamma(2, 0.5, size=(rows, 1))
    levels = np.rint(rng.laplace(size=(rows, columns)) * scales).astype(int)
    below, above = zero, n_entries - 1 - zero
    steps = TRELLISES[n_states]
    values = np.zeros((rows, columns), dtype=np.int64)
    for column in range(columns):
        state = 0
        for row in range(rows):
            half, *following = steps[state]
            level = int(levels[row, column])
            if n_states:
                level = min(max(level, -((below + half) // 2)), (above + half) // 2)
                values[row, column] = 2 * level - half * ((level > 0) - (level < 0))
            else:
                values[row, column] = min(max(level, -below), above)
            state = following[level % 2]
    return (values + zero).astype(index_dtype(n_entries)).ravel(), tuple(shape)


def network_on_trellises(paths, spoiled=()):
    """Return a network of tensors that follow trellises; those spoiled do in all but one weight."""
    rng = np.random.default_rng(3)
    tensors = [KeptTensor("kept", (50,), "float32", rng.normal(size=50).astype(np.float16))]
    for i, n_states in enumerate(paths):
        indices, shape = draw_path(rng, (12, 3, 3, 3), 41, 20, n_states, 3.0)
        if i in spoiled:
            indices[5] ^= 1  # the first row of every column has even multiples only
        counts = np.bincount(indices, minlength=41)
        tensors.append(SharedTensor(f"t{i}", shape, "float32", 0, indices, counts))
    return SharedWeights((Codebook(np.arange(-20, 21) / 8),), tuple(tensors))


def network_of_wide_alphabets(*, n_states=0):
    """Return a network whose first codebook has mean magnitudes above 12, the second below 1.

    With ``n_states`` the tensors of the first codebook follow a trellis.
    """
    rng = np.random.default_rng(4)
    books = tuple(Codebook(np.arange(-n, n + 1) / 8) for n in (120, 5))
    tensors = [KeptTensor("kept", (50,), "float32", rng.normal(size=50).astype(np.float16))]
    layers = [(0, (40, 20, 3, 3), 12), (0, (40, 100), 12), (1, (30, 40), 0.5)]
    for i, (book, shape, scale) in enumerate(layers):
        n_entries = len(books[book])
        indices, _ = draw_path(
            rng, shape, n_entries, n_entries // 2, 0 if book else n_states, scale
        )
        counts = np.bincount(indices, minlength=n_entries)
        tensors.append(SharedTensor(f"t{i}", shape, "float32", book, indices, counts))
    return SharedWeights(books, tuple(tensors))
