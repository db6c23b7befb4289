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
