"""Kept floats in steps: integers in the file, times a power of two."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeash.codec import container, directory
from moeash.codec.entries import entries_of
from moeash.codec.size import size
from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.core.kept import EXPONENTS
from moeash.errors import CorruptContainerError, InputError

CODERS = ["ans", "huffman", "adaptive"]


def stepped(name, values, exponent, *, stored="int8", dtype="float32"):
    array = np.asarray(values, stored)
    return KeptTensor(name, array.shape, dtype, array, exponent)


def every_kind():
    return (
        stepped("a.bias", [1, -2, 3], -5),
        stepped("b.bias", [1000, -2000], -9, stored="int16"),
        stepped("c.bias", [], -3),
        stepped("d.bias", -7, 4),
        stepped("e.bias", [4] * 9, EXPONENTS[0]),
        stepped("f.bias", [1, 2], EXPONENTS[-1], dtype="bfloat16"),
        stepped("g.bias", [1, 2], 0),
        stepped("counts", [1, 2], 0, dtype="int8"),
        KeptTensor("scale", (), "float32", np.array(0.5, np.float16)),
    )


@pytest.mark.parametrize("coder", CODERS)
def test_every_kind_of_kept_tensor_comes_back_beside_shared_ones(zoo, coder):
    shared = SharedWeights(zoo.codebooks, (*zoo.tensors, *every_kind()))
    data = container.encode(shared, coder=coder)
    assert len(data) == size(shared, coder=coder).total
    decoded = container.decode(data)
    assert decoded.coder == coder
    assert decoded.shared.fingerprint() == shared.fingerprint()
    for one, other in zip(shared.kept, decoded.shared.kept, strict=True):
        assert (one.name, one.shape, one.exponent) == (other.name, other.shape, other.exponent)
        assert one.values.dtype == other.values.dtype
        assert np.array_equal(one.decoded(), other.decoded())
    assert container.encode(decoded.shared, coder=coder) == data


@given(
    values=st.lists(st.integers(-32_768, 32_767), max_size=20),
    exponent=st.integers(EXPONENTS[0], EXPONENTS[-1]),
)
def test_what_is_decoded_is_the_integer_times_the_step_exactly(values, exponent):
    shared = SharedWeights((), (stepped("b", values, exponent, stored="int16"),))
    decoded = container.decode(container.encode(shared)).shared.decoded()["b"]
    assert decoded.dtype == np.float32
    assert [float(v) for v in decoded] == [v * 2.0**exponent for v in values]


def test_a_constant_tensor_costs_a_few_bytes_whatever_its_length():
    def bytes_of(n):
        return size(SharedWeights((), (stepped("b", np.full(n, 9), -4),))).total

    assert bytes_of(100_000) <= bytes_of(10) + 3


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (stepped("b", [1], EXPONENTS[0] - 1), r"steps of 2\*\*-127"),
        (stepped("b", [1], EXPONENTS[-1] + 1), r"steps of 2\*\*101"),
        (stepped("b", [1], -3, stored="int32"), "stored as int32"),
        (stepped("b", [1], -3, stored="float32"), "stored as float32"),
        (stepped("b", [1], -3, dtype="int8"), r"\(int8 stored as int8\)"),
    ],
)
def test_steps_the_format_does_not_have_are_refused(tensor, message):
    with pytest.raises(InputError, match=message):
        container.encode(SharedWeights((), (tensor,)))


def with_exponents(exponents):
    """A directory of two tensors in steps whose column of steps says something else."""
    entries = entries_of(SharedWeights((), (stepped("aa", [1], -3), stepped("b", [1], -3))))
    packed = directory.pack(entries, ())
    assert packed[0] == 0 and packed[-2:] == bytes([124, 124])  # plain, the column last
    return packed[:-2] + bytes(exponents)


@pytest.mark.parametrize(
    ("exponents", "message"),
    [
        ([0, 124], r"steps of 2\*\*-127"),
        ([124, 228], r"steps of 2\*\*101"),
        ([124], "truncated"),
        ([124, 124, 124], "stray bytes"),
    ],
)
def test_a_column_of_steps_that_is_not_one_is_refused(exponents, message):
    with pytest.raises(CorruptContainerError, match=message):
        directory.unpack(with_exponents(exponents), 1 << 20)
