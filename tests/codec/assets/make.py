"""Make the files of version 1 and their fingerprints: ``python -m tests.codec.assets.make``.

They were made once, when the format was fixed, and are read for ever: files that exist are never
written again. A later version adds a folder of its own.
"""

import json
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
from tests.codec.conftest import build_zoo
from tests.codec.paths import network_of_wide_alphabets, network_on_trellises

V1 = Path(__file__).parent / "v1"
FINGERPRINTS = V1 / "fingerprints.json"
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


def long():
    """A network of so many symbols that its stream is divided, most of which are the same."""
    rng = np.random.default_rng(4)
    book = Codebook(np.array([-0.5, 0.0, 0.25], dtype=np.float32))
    tensors = []
    for name, shape in (("a.weight", (1 << 10, 600)), ("b.weight", (1 << 19,)), ("c.weight", (9,))):
        drawn = rng.choice(3, int(np.prod(shape)), p=[0.0005, 0.999, 0.0005]).astype(np.uint8)
        drawn[:2] = 0, 2
        counts = np.bincount(drawn, minlength=3)
        tensors.append(SharedTensor(name, shape, "float32", 0, drawn, counts))
    values = rng.normal(size=10).astype(np.float16)
    return SharedWeights((book,), (*tensors, KeptTensor("c.bias", (10,), "float32", values)))


NETWORKS = {
    "plain": (network, ("ans", "huffman", "adaptive")),
    "zoo": (build_zoo, ("ans", "huffman", "adaptive")),
    "steps": (stepped, ("ans", "huffman", "adaptive")),
    "structured": (structured, ("adaptive",)),
    "trellises": (lambda: network_on_trellises([8, 0, 4, 16]), ("adaptive",)),
    "units": (network_of_wide_alphabets, ("adaptive",)),
    "units-trellis": (lambda: network_of_wide_alphabets(n_states=8), ("adaptive",)),
    "kept-only": (lambda: SharedWeights((), stepped().kept), ("ans",)),
    "long": (long, ("ans",)),
    "empty": (lambda: SharedWeights((), ()), ("ans",)),
}
"""Networks and the coders they are written with."""


def main():
    V1.mkdir(exist_ok=True)
    known = json.loads(FINGERPRINTS.read_text()) if FINGERPRINTS.exists() else {}
    for name, (make, coders) in NETWORKS.items():
        shared = make()
        for coder in coders:
            path = V1 / f"{name}-{coder}.moeash"
            if not path.exists():
                container.write(path, shared, coder=coder, notes=NOTES)
                known[path.name] = shared.fingerprint()
    FINGERPRINTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
