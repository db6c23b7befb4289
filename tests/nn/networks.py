"""Networks with one layer of every kind, and files for them."""

import numpy as np
import torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.core.codebook import Codebook, SharedTensor, SharedWeights, index_dtype

TOKENS = torch.arange(21).reshape(3, 7) * 5 % 50


class Language(nn.Module):
    """An embedding tied to the head, a convolution, attention and norms."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.convolution = nn.Conv1d(32, 32, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm1d(32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        hidden = self.norm(self.convolution(self.embedding(tokens).mT)).mT
        return self.head(self.layer(hidden))


def language(seed=0):
    torch.manual_seed(seed)
    return Language().eval()


def written(module, path, k):
    """Write a file of a network and return its path."""
    moeash.compress(module, path, candidate={"k": k}, progress=False)
    return path


def drawn(shapes, n_entries, *, n_codebooks=1, dtype="float32"):
    """Shared weights with tensors of some shapes by name, of every codebook in turn."""
    rng = np.random.default_rng(n_entries)
    books = tuple(
        Codebook(np.sort(rng.permutation(4 * n_entries)[:n_entries]) / n_entries - 2.0 - book)
        for book in range(n_codebooks)
    )
    tensors = []
    for position, (name, shape) in enumerate(shapes.items()):
        indices = rng.integers(0, n_entries, int(np.prod(shape))).astype(index_dtype(n_entries))
        counts = np.bincount(indices, minlength=n_entries)
        tensors.append(SharedTensor(name, shape, dtype, position % n_codebooks, indices, counts))
    return SharedWeights(books, tuple(tensors))


def shared_of(module, k, tmp_path):
    """The shared weights of a network with k bins."""
    return container.read(written(module, tmp_path / "x.moeash", k)).shared
