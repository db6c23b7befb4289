"""Networks with every kind of tensor a state may hold."""

import numpy as np

from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, TiedTensor
from moeash.core.kept import in_steps

EDGES = [np.nan, -0.0, 0.0, np.inf, -np.inf, 1e-42, -1e-7, 65504.0]


def kept(name, values, dtype=None):
    values = np.asarray(values)
    return KeptTensor(name, values.shape, dtype or values.dtype.name, values)


def shared(name, shape, n_entries, *, codebook=0, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    kind = np.uint8 if n_entries <= 256 else np.uint16 if n_entries <= 1 << 16 else np.uint32
    indices = rng.integers(0, n_entries, int(np.prod(shape))).astype(kind)
    counts = np.bincount(indices, minlength=n_entries).astype(np.int64)
    return SharedTensor(name, shape, dtype, codebook, indices, counts)


def codebook(n_entries):
    return Codebook(np.linspace(-1.7, 2.3, n_entries, dtype=np.float32))


def integer_edges():
    """Yield a tensor of every integer dtype with the lowest and highest value it has."""
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"):
        info = np.iinfo(name)
        yield kept(f"edges.{name}", np.array([info.min, info.max, 1, 0], name))


def odd_weights(*, complex128=True):
    """Return shared weights in every dtype, on codebooks of one, five and 300 entries."""
    tensors = [
        shared("conv.weight", (4, 3, 3, 3), 300),
        shared("half.weight", (5, 7), 300, dtype="float16"),
        shared("brain.weight", (7, 5), 300, dtype="bfloat16"),
        shared("double.weight", (3, 3), 5, codebook=1, dtype="float64"),
        shared("five.weight", (11,), 5, codebook=1),
        shared("one.weight", (6,), 1, codebook=2),
        TiedTensor("tied.weight", "conv.weight"),
        kept("bias", np.array(EDGES, np.float32)),
        kept("half.bias", np.array(EDGES, np.float16)),
        kept("stored.half", np.array([0.5, -2.0, 0.1], np.float16), "float32"),
        kept("brain.bias", np.array([0.1, 3.14159, -7.0], np.float32), "bfloat16"),
        kept("double.bias", np.array([0.1, np.nan, -0.0])),
        kept("constant", np.full((3, 2), 0.25, np.float32)),
        kept("zeros", np.zeros(9, np.float16), "float32"),
        in_steps(kept("steps", np.array([0.5, -1.25, 3.0], np.float32)), -2),
        in_steps(kept("brain.steps", np.array([0.3, -1.2], np.float32), "bfloat16"), -6),
        kept("scalar", np.array(7, np.int64)),
        kept("nothing", np.empty((0, 3), np.float32)),
        kept("mask", np.array([[True], [False]])),
        kept("wave", np.array([1 + 2j, -0.5j], np.complex64)),
        *integer_edges(),
        TiedTensor("tied.bias", "bias"),
    ]
    if complex128:
        tensors.append(kept("fine.wave", np.array([1j, 0.1], np.complex128)))
    return SharedWeights((codebook(300), codebook(5), codebook(1)), tuple(tensors))
