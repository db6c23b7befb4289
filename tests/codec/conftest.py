"""Builders of networks for the codec tests, as session fixtures so that hypothesis may use them."""

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.static import rates
from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    SharedTensor,
    SharedWeights,
    TiedTensor,
    index_dtype,
)
from moeash.errors import ExportError


def find_salted(one_tensor, monkeypatch):
    """Return a network whose stream needs other slots, and its file; the slack for it is set."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        shared = one_tensor(rng.integers(0, 41, 300), 41)
        for slack in range(24, 8, -1):
            monkeypatch.setattr(rates, "SLACK_BITS", slack)
            try:
                data = container.encode(shared)
            except ExportError:
                break
            if data[7]:
                return shared, data
    pytest.fail("no stream needed a salt: the retry was not tried")


def build_codebook(n_entries, rng):
    entries = np.sort(rng.normal(size=n_entries).astype(np.float32))
    return Codebook(np.unique(entries))


def build_shared(name, codebook, indices, n_entries, *, shape=None, dtype="float32"):
    indices = np.asarray(indices).astype(index_dtype(n_entries))
    counts = np.bincount(indices, minlength=n_entries).astype(np.int64)
    shape = indices.shape if shape is None else shape
    return SharedTensor(name, shape, dtype, codebook, indices.reshape(-1), counts)


def build_bell(n, n_entries, rng, width=6.0):
    """Indices as trained weights have them: a bell over the sorted entries."""
    middle = n_entries / 2
    drawn = np.rint(rng.normal(size=n) * n_entries / width + middle)
    return np.clip(drawn, 0, n_entries - 1).astype(np.int64)


def build_zoo(seed=0):
    """A small network with everything the format can hold."""
    rng = np.random.default_rng(seed)
    books = (build_codebook(9, rng), build_codebook(40, rng), Codebook(np.array([1.5])))

    def shared(name, shape, book, dtype="float32", width=6.0):
        n_entries = len(books[book])
        n = int(np.prod(shape))
        indices = build_bell(n, n_entries, rng, width)
        return build_shared(name, book, indices, n_entries, shape=shape, dtype=dtype)

    def kept(name, dtype, stored, shape):
        values = (np.abs(rng.normal(size=shape)) * 3).astype(stored)
        return KeptTensor(name, shape, dtype, np.asarray(values))

    return SharedWeights(
        books,
        (
            shared("a.conv.weight", (4, 3, 3), 0),
            kept("a.bn.weight", "float32", "float16", (16,)),
            kept("a.bn.bias", "float32", "float32", (9,)),
            kept("a.bn.num_batches_tracked", "int64", "int64", ()),
            shared("b.conv.weight", (5, 7), 1, "bfloat16"),
            TiedTensor("b.tied.weight", "b.conv.weight"),
            shared("c.conv.weight", (8, 5), 1, "float64", width=30.0),
            shared("empty", (0, 3), 1),
            shared("scalar", (), 0, "float16"),
            shared("one_value", (7,), 2),
            kept("mask", "bool", "bool", (5,)),
            kept("nothing", "float64", "float64", (0, 2)),
            kept("wave", "complex64", "complex64", (2,)),
            kept("bytes", "uint8", "uint8", (3,)),
            kept("b.scale", "bfloat16", "float32", (4,)),
        ),
    )


@pytest.fixture(scope="session")
def zoo():
    return build_zoo()


@pytest.fixture(scope="session")
def one_tensor():
    """Return a function that makes a network of one shared tensor."""

    def make(indices, n_entries, **kwargs):
        book = Codebook(np.arange(n_entries, dtype=np.float32))
        return SharedWeights((book,), (build_shared("w", 0, indices, n_entries, **kwargs),))

    return make


@pytest.fixture(scope="session")
def layers():
    """Return a function that makes shared tensors of different spread over one codebook."""

    def make(sizes, n_entries, seed=0):
        rng = np.random.default_rng(seed)
        book = build_codebook(n_entries, rng)
        n_entries = len(book)
        tensors = tuple(
            build_shared(
                f"layer{i}.weight",
                0,
                build_bell(n, n_entries, rng, width=4.0 + 4 * (i % 5)),
                n_entries,
            )
            for i, n in enumerate(sizes)
        )
        return SharedWeights((book,), tensors)

    return make
