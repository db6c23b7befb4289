"""Make the version 1 files. Run once, when version 1 was fixed; never again over old files."""

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


if __name__ == "__main__":
    shared = network()
    container.write(HERE / "v1.moeash", shared, notes=NOTES)
    container.write(HERE / "v1-huffman.moeash", shared, coder="huffman", notes=NOTES)
    (HERE / "v1.fingerprint").write_text(shared.fingerprint() + "\n")
