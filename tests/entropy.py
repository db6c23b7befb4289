"""Order-0 entropy, which coded sizes are held against."""

import numpy as np
import torch


def entropy_bits(counts):
    """Return ``sum n_j log2(N / n_j)`` of a histogram, in bits for all it counts."""
    n = np.asarray(counts, dtype=np.float64)
    n = n[n > 0]
    return float((n * (np.log2(n.sum()) - np.log2(n))).sum())


def index_bits(indices):
    """Return the entropy of a tensor of indices, in bits for the whole tensor."""
    return entropy_bits(torch.unique(indices, return_counts=True)[1].cpu().numpy())
