"""Make the files of every version. Run once when one is fixed; never again over old files."""

from pathlib import Path

import numpy as np

from moeash.codec import container
from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    SharedTensor,
    SharedWeights,
    TiedTensor,
)
from tests.codec.paths import network_of_wide_alphabets, network_on_trellises

HERE = Path(__file__).parent
NOTES = {"made_by": "tests/codec/assets/make.py"}


def network():
    rng = np.random.default_rng(1)
    books = tuple(Codebook(np.sort(rng.normal(size=n)).astype(np.float32)) for n in (41, 300))
    tensors = []
    for layer, (book, n, width) in enumerate([(0, 6000, 6), (0, 900, 20), (1, 4000, 9)]):
        n_entries = len(books[book])
        drawn = np.rint(rng.normal(size=n) * n_entries / width + n_entries / 2)
        indices = np.clip(drawn, 0, n_entries - 1).astype(np.uint16 if book else np.uint8)
        counts = np.bincount(indices, minlength=n_entries)
        name = f"layer{layer}"
        shape = (n // 10, 10)
        tensors.append(SharedTensor(f"{name}.weight", shape, "float32", book, indices, counts))
        for leaf, stored in (("bias", "float32"), ("running_var", "float16")):
            values = rng.normal(size=50).astype(stored)
            tensors.append(KeptTensor(f"{name}.{leaf}", (50,), "float32", values))
        steps = np.array(1234 + layer)
        tensors.append(KeptTensor(f"{name}.steps", (), "int64", steps.astype(np.int64)))
    tensors.append(TiedTensor("head.weight", "layer0.weight"))
    return SharedWeights(books, tuple(tensors))


def structured():
    """A network whose rows and columns differ in scale: what the adaptive coder learns."""
    rng = np.random.default_rng(2)
    tensors = []
    for name, shape in (("conv.weight", (40, 20, 3, 3)), ("fc.weight", (10, 40))):
        scale = rng.uniform(0.2, 3, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
        drawn = np.rint(rng.normal(size=shape) * scale).clip(-6, 6) + 6
        indices = drawn.astype(np.uint8).ravel()
        counts = np.bincount(indices, minlength=13)
        tensors.append(SharedTensor(name, shape, "float32", 0, indices, counts))
    values = rng.normal(size=10).astype(np.float16)
    tensors.append(KeptTensor("fc.bias", (10,), "float32", values))
    book = Codebook(np.arange(-6, 7, dtype=np.float32) / 8)
    return SharedWeights((book,), tuple(tensors))


def stepped():
    """A network with kept floats in steps: of 8 and 16 bits, large and small, and one without."""
    rng = np.random.default_rng(3)
    tensors = list(structured().tensors)
    for name, stored, exponent, width in (
        ("bn.weight", "int8", -7, 20),
        ("bn.bias", "int16", -12, 300),
        ("far.bias", "int8", 90, 5),
        ("near.bias", "int8", -126, 5),
        ("whole.bias", "int8", 0, 5),
    ):
        values = np.rint(rng.normal(size=40) * width).astype(stored)
        tensors.append(KeptTensor(name, (40,), "float32", values, exponent))
    return SharedWeights(structured().codebooks, tuple(tensors))


if __name__ == "__main__":
    networks = {
        "v1": network(),
        "v2": structured(),
        "v3": network_on_trellises([8, 0, 4, 16]),
        "v3-steps": stepped(),
        "v4": network_of_wide_alphabets(),
    }
    files = {
        "v1": ("v1", "ans"),
        "v1-huffman": ("v1", "huffman"),
        "v2": ("v2", "adaptive"),
        "v3": ("v3", "adaptive"),
        "v3-steps": ("v3-steps", "ans"),
        "v4": ("v4", "adaptive"),
    }
    for name, (which, coder) in files.items():
        if not (HERE / f"{name}.moeash").exists():
            container.write(HERE / f"{name}.moeash", networks[which], coder=coder, notes=NOTES)
    for which, shared in networks.items():
        (HERE / f"{which}.fingerprint").write_text(shared.fingerprint() + "\n")
