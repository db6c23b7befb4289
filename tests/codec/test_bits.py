import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeash.codec.bits import BitReader, BitWriter, golomb_bits, unzigzag, zigzag, zigzags
from moeash.errors import CorruptContainerError


def test_a_worked_case():
    bits = BitWriter()
    bits.fixed(5, 4)  # 0101
    bits.golomb(0, 0)  # 1
    bits.golomb(3, 0)  # 00100
    bits.golomb(3, 1)  # 0101
    assert bits.to_bytes() == bytes([0b01011001, 0b00010100])
    assert bits.n_bits == 14


@given(st.lists(st.tuples(st.integers(0, 2**34), st.integers(0, 12)), max_size=30))
def test_golomb_codes_come_back_and_take_the_bits_they_are_said_to(pairs):
    bits = BitWriter()
    for code, order in pairs:
        bits.golomb(code, order)
    assert bits.n_bits == sum(int(golomb_bits(np.array(c), k)) for c, k in pairs)
    reader = BitReader(bits.to_bytes())
    assert [reader.golomb(order) for _, order in pairs] == [code for code, _ in pairs]
    reader.finish()


@given(st.integers(-(2**40), 2**40))
def test_zigzag_comes_back(value):
    assert unzigzag(zigzag(value)) == value
    assert zigzags(np.array([value])).tolist() == [zigzag(value)]


def test_reading_past_the_end_is_refused():
    with pytest.raises(CorruptContainerError, match="end too early"):
        BitReader(b"\x01").fixed(9)
    with pytest.raises(CorruptContainerError, match="absurd"):
        BitReader(b"\x00" * 9).golomb(0)


def test_stray_bits_are_refused():
    with pytest.raises(CorruptContainerError, match="stray"):
        BitReader(b"\x01").finish()
    with pytest.raises(CorruptContainerError, match="stray"):
        BitReader(b"\x00").finish()


def test_a_symbol_outside_its_alphabet_is_refused():
    with pytest.raises(CorruptContainerError, match="symbol 7 of 5"):
        BitReader(b"\xff").symbol(5)


@pytest.mark.parametrize("before", [0, 1, 7, 100])
def test_numbers_of_any_length_come_back_across_all_that_is_looked_ahead(before):
    rng = np.random.default_rng(before)
    numbers = [(int(2.0 ** rng.uniform(0, 40)), int(rng.integers(32))) for _ in range(3000)]
    bits = BitWriter()
    bits.fixed(0, before)
    for code, order in numbers:
        bits.golomb(code, order)
        bits.fixed(code % 2, 1)
    data = bits.to_bytes()
    reader = BitReader(data)
    assert reader.fixed(before) == 0
    assert reader.remaining == 8 * len(data) - before
    for code, order in numbers:
        assert (reader.golomb(order), reader.fixed(1)) == (code, code % 2)
    reader.finish()
