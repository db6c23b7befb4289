"""EntQuant's rule beside uniform bins, on one matrix: bytes, and how far the weights move.

    python entquant.py MODEL.safetensors NAME

EntQuant (arXiv 2601.22787) rounds every row to integers at a scale of its own. The scale is found
without data: as read here it is the one of least ``error + weight * l1``, the squared error of the
row relative to its square, and the mean magnitude of its integers, which stands for their entropy.
The least is looked for among ``N_SCALES`` scales a row. Both sides are written in the same file:
one codebook and indices in the ANS coder, scales kept as float16.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from moeash.codec.size import size
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, index_dtype

N_SCALES = 48
WEIGHTS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
BINS = (9, 13, 17, 25, 33, 49, 65, 97, 129, 193)


def file_bytes(integers, step, *kept):
    """Bytes of a file of integers as indices, with more tensors beside them."""
    low, high = int(integers.min()), int(integers.max())
    n_entries = high - low + 1
    indices = (integers - low).astype(index_dtype(n_entries)).ravel()
    book = Codebook(np.arange(low, high + 1, dtype=np.float32) * np.float32(step))
    counts = np.bincount(indices, minlength=n_entries)
    tensor = SharedTensor("w", integers.shape, "float32", 0, indices, counts)
    return size(SharedWeights((book,), (tensor, *kept))).total


def errors(matrix, decoded):
    """Relative error of the matrix, and the mean of those of its rows."""
    moved = matrix - decoded
    rows = np.sqrt((moved**2).sum(1) / (matrix**2).sum(1))
    return float(np.linalg.norm(moved) / np.linalg.norm(matrix)), float(rows.mean())


def uniform(matrix, n_bins):
    """Bytes and errors of one step for the whole matrix."""
    step = float(matrix.max() - matrix.min()) / n_bins
    integers = np.rint(matrix / step).astype(np.int32)
    return file_bytes(integers, step), *errors(matrix, integers * np.float32(step))


def entquant(matrix):
    """Bytes and errors of a step a row, for every weight of the penalty."""
    largest = np.abs(matrix).max(1, keepdims=True)
    squares = (matrix**2).sum(1)
    steps = [largest / d for d in np.geomspace(0.6, 127, N_SCALES).astype(np.float32)]
    cost, magnitude = np.empty((2, N_SCALES, len(matrix)))
    for i, step in enumerate(steps):
        integers = np.rint(matrix / step)
        cost[i] = ((matrix - integers * step) ** 2).sum(1) / squares
        magnitude[i] = np.abs(integers).mean(1)
    for weight in WEIGHTS:
        best = (cost + weight * magnitude).argmin(0)
        step = np.stack(steps)[best, np.arange(len(matrix))].astype(np.float16).astype(np.float32)
        integers = np.rint(matrix / step).astype(np.int32)
        scales = KeptTensor("s", (len(matrix),), "float32", step[:, 0].astype(np.float16))
        yield weight, file_bytes(integers, 1, scales), *errors(matrix, integers * step)


def main():
    """Print a line a point; for each of EntQuant's also the errors of uniform bins at its bytes."""
    path, name = sys.argv[1:]
    with safe_open(Path(path), "numpy") as file:
        matrix = file.get_tensor(name).astype(np.float32)
    line = sorted(uniform(matrix, n_bins) for n_bins in BINS)
    columns = np.array(line)
    for n_bytes, whole, rows in line:
        print(
            f"uniform {n_bytes:>9,} bytes {8 * n_bytes / matrix.size:.3f} bits"
            f"  error {whole:.4f}  of rows {rows:.4f}"
        )
    for weight, n_bytes, whole, rows in entquant(matrix):
        ours = [
            float(np.exp(np.interp(np.log(n_bytes), np.log(columns[:, 0]), np.log(columns[:, i]))))
            for i in (1, 2)
        ]
        print(
            f"entquant, weight {weight:<5g} {n_bytes:>9,} bytes "
            f"{8 * n_bytes / matrix.size:.3f} bits  error {whole:.4f}, uniform {ours[0]:.4f};"
            f"  of rows {rows:.4f}, uniform {ours[1]:.4f}"
        )


if __name__ == "__main__":
    main()
