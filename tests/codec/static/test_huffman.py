import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moeash.codec.pools import plan_pool
from moeash.codec.static import huffman
from moeash.codec.static.tables import Table
from moeash.errors import CorruptContainerError
from tests.entropy import entropy_bits


def decoded(payload, table, n):
    """The ranks of a source alone."""
    out = np.empty(n, dtype=np.uint16)
    (counts,) = huffman.fill(payload, 0, [(table, out)])
    ranks = np.searchsorted(table.symbols, out)
    assert np.array_equal(np.bincount(ranks, minlength=table.symbols.size), counts)
    return ranks


def test_a_worked_case():
    # 1 + 2 = 3, 3 + 4 = 7, 7 + 8: lengths 3, 3, 2, 1.
    assert huffman.code_lengths(np.array([1, 2, 4, 8])).tolist() == [3, 3, 2, 1]


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=300))
@settings(deadline=None)
def test_codes_are_complete_and_within_a_bit_of_the_entropy(counts):
    counts = np.array(counts)
    lengths = huffman.code_lengths(counts)
    assert sum(2.0 ** -int(n) for n in lengths) == 1
    mean = (counts * lengths).sum() / counts.sum()
    entropy = entropy_bits(counts) / counts.sum()
    assert entropy <= mean * (1 + 1e-12) < entropy + 1 + 1e-9


def test_codes_of_fibonacci_counts_stay_short_enough_to_decode():
    counts = [1, 1]
    while len(counts) < 45:
        counts.append(counts[-1] + counts[-2])
    lengths = huffman.code_lengths(np.array(counts))
    assert lengths.max() <= huffman.MAX_LENGTH
    assert sum(2.0 ** -int(n) for n in lengths) == 1


@given(st.integers(1, 300), st.integers(1, 2000), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_a_stream_has_the_bytes_counted_and_comes_back(n_entries, n, seed):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, n_entries, n) * rng.integers(0, 2, n)
    counts = np.bincount(indices, minlength=n_entries)
    plan = plan_pool("huffman", [counts])
    table = plan.build(huffman).table(0)
    if table is None:
        assert np.unique(indices).size == 1
        return
    ranks = np.searchsorted(table.symbols, indices).astype(np.int32)
    reserved = huffman.payload_bytes(int(plan.payload.sum()), n)
    payload, _ = huffman.encode([(lambda: ranks, table, n)], reserved)
    assert len(payload) == reserved
    got = decoded(payload, table, n)
    assert_array_equal(got, ranks)


@pytest.mark.parametrize("alphabet", [2, 3, 5, 8, 41, 256])
def test_the_flat_table_is_a_complete_code(alphabet):
    table = Table(alphabet, np.arange(alphabet), huffman.flat_levels(alphabet))
    codes = huffman.codes_of(table)
    assert sum(2.0 ** -len(code) for code in codes.values()) == 1
    assert {len(code) for code in codes.values()} <= {
        alphabet.bit_length() - 1,
        (alphabet - 1).bit_length(),
    }


def test_levels_that_are_no_code_are_refused():
    table = Table(3, np.arange(3), np.array([1, 1, 1]))
    with pytest.raises(CorruptContainerError, match="gaps"):
        decoded(b"\0", table, 3)
    table = Table(2, np.arange(2), np.array([40, 40]))
    with pytest.raises(CorruptContainerError, match="longer than 31"):
        decoded(b"\0", table, 3)


def test_streams_that_end_too_early_or_too_late_are_refused():
    table = Table(2, np.arange(2), np.array([1, 1]))
    with pytest.raises(CorruptContainerError, match="end too early"):
        decoded(b"\0", table, 9)
    with pytest.raises(CorruptContainerError, match="where they should"):
        decoded(b"\0\0", table, 3)
    with pytest.raises(CorruptContainerError, match="where they should"):
        decoded(b"\x01", table, 3)
