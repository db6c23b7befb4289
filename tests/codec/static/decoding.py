"""What a coder reads from a stream of one source."""

import numpy as np

from moeash.core.codebook import index_dtype


def decoded(coding, payload, salt, table, n):
    """Return the ranks of a source's symbols, whose counts are checked on the way."""
    out = np.empty(n, dtype=index_dtype(table.alphabet))
    (counts,) = coding.decode(payload, salt, [(table, out)])
    ranks = np.searchsorted(table.symbols, out)
    assert np.array_equal(counts, np.bincount(ranks, minlength=table.symbols.size))
    return ranks
