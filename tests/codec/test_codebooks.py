import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moeash.codec import codebooks
from moeash.codec.bits import BitReader, BitWriter
from moeash.core.codebook import Codebook
from moeash.errors import CorruptContainerError, InputError


def there_and_back(book):
    bits = BitWriter()
    codebooks.write(bits, book)
    assert bits.n_bits == codebooks.n_bits(book)
    reader = BitReader(bits.to_bytes())
    again = codebooks.read(reader)
    reader.finish()
    assert_array_equal(again.entries.view(np.uint32), book.entries.view(np.uint32))
    return bits.n_bits


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=80)
)
@settings(deadline=None)
def test_any_codebook_comes_back_bit_for_bit(values):
    there_and_back(Codebook(np.unique(np.array(values, dtype=np.float32))))


def test_extremes_come_back():
    largest, tiniest = np.finfo(np.float32).max, np.float32(1e-45)
    there_and_back(Codebook(np.array([-largest, -tiniest, -0.0, tiniest, largest])))
    there_and_back(Codebook(np.array([-largest, largest])))
    there_and_back(Codebook(np.arange(20_000, dtype=np.float32)))


def test_a_line_that_leaves_float32_is_clipped():
    largest = float(np.finfo(np.float32).max)
    grid = np.linspace(0, largest / 2, 60)  # long enough that predicting pays
    book = Codebook(np.append(grid, [0.9 * largest, largest]))
    assert there_and_back(book) < 32 * len(book)


def test_bins_of_a_grid_cost_little_and_means_less_than_plain():
    step = 0.03125
    centres = (np.arange(60) - 30) * step
    assert there_and_back(Codebook(centres)) < 60 * 6
    jitter = np.random.default_rng(0).normal(0, step / 50, 60)
    assert there_and_back(Codebook(centres + jitter)) < 60 * 26


def test_noise_costs_no_more_than_plain():
    entries = np.unique(np.random.default_rng(0).integers(0, 2**31 - 2**24, 500).astype(np.uint32))
    entries = np.sort(entries.view(np.float32))
    assert there_and_back(Codebook(entries)) <= 32 * entries.size + 20


def test_a_codebook_beyond_the_format_is_refused():
    book = Codebook(np.arange(codebooks.MAX_ENTRIES + 1, dtype=np.float32))
    with pytest.raises(InputError, match="at most 1048576 entries"):
        codebooks.n_bits(book)


@pytest.mark.parametrize(
    "patterns, message",
    [
        ([0x3F800000, 0x3F800000], "strictly increasing"),
        ([0x7F800000], "NaN or infinite"),
        ([0x7FC00000], "NaN or infinite"),
    ],
)
def test_entries_that_are_no_codebook_are_refused(patterns, message):
    bits = BitWriter()
    bits.golomb(len(patterns) - 1, codebooks.COUNT_ORDER)
    bits.fixed(0, 1)
    for pattern in patterns:
        bits.fixed(pattern, 32)
    with pytest.raises(CorruptContainerError, match=message):
        codebooks.read(BitReader(bits.to_bytes()))


@pytest.mark.parametrize("code, message", [(2**33, "out of range"), (0x7F800000 * 2, "not finite")])
def test_predicted_entries_that_are_no_float_are_refused(code, message):
    bits = BitWriter()
    bits.golomb(0, codebooks.COUNT_ORDER)
    bits.fixed(1, 1)
    bits.fixed(31, 5)
    bits.golomb(code, 31)
    with pytest.raises(CorruptContainerError, match=message):
        codebooks.read(BitReader(bits.to_bytes()))
