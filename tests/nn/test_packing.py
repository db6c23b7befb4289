import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moeash.core.codebook import index_dtype
from moeash.nn.packing import BITS, Packing, bits_for, pack

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def drawn(n_entries, size, dtype=torch.float32, seed=0):
    rng = np.random.default_rng(seed)
    indices = rng.integers(0, n_entries, size).astype(index_dtype(n_entries))
    return indices, torch.linspace(-1, 1, n_entries, dtype=dtype)


def looked_up(codebook, indices):
    return codebook[torch.tensor(indices.astype(np.int64))]


@given(
    st.sampled_from(BITS),
    st.lists(st.integers(0, 9), max_size=4),
    st.sampled_from(DTYPES),
    st.data(),
)
def test_what_is_packed_is_decoded_bit_for_bit(bits, shape, dtype, data):
    n_entries = data.draw(st.integers(1, min(1 << bits, 1000)))
    indices, codebook = drawn(n_entries, int(np.prod(shape)), dtype)
    packed = pack(indices, bits)
    weight = Packing(tuple(shape), bits).weight(packed, codebook)
    assert weight.dtype == dtype and weight.is_contiguous()
    assert torch.equal(weight, looked_up(codebook, indices).reshape(shape))
    assert packed.dtype == torch.uint8 and packed.numel() <= -(-indices.size * bits // 8) + 2


@given(st.sampled_from(BITS), st.integers(1, 9), st.integers(1, 9), st.data())
def test_rows_are_those_of_the_whole_weight(bits, n_rows, width, data):
    n_entries = data.draw(st.integers(1, min(1 << bits, 1000)))
    wanted = torch.tensor(data.draw(st.lists(st.integers(0, n_rows - 1), min_size=0, max_size=6)))
    indices, codebook = drawn(n_entries, n_rows * width)
    packing, packed = Packing((n_rows, width), bits), pack(indices, bits)
    rows = packing.rows(packed, codebook, wanted.long())
    assert torch.equal(rows, packing.weight(packed, codebook)[wanted.long()])


@pytest.mark.parametrize("row", [-1, 5])
@pytest.mark.parametrize(("bits", "width"), [(4, 3), (4, 4), (6, 4), (6, 5), (8, 3), (16, 3)])
def test_a_row_out_of_range_is_refused(bits, width, row):
    indices, codebook = drawn(9, 5 * width)
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        Packing((5, width), bits).rows(pack(indices, bits), codebook, torch.tensor([0, row]))


def test_a_weight_gets_the_strides_it_is_asked_for():
    indices, codebook = drawn(9, 2 * 3 * 4 * 4)
    channels_last = torch.empty(2, 3, 4, 4).to(memory_format=torch.channels_last)
    plain = Packing((2, 3, 4, 4), 4).weight(pack(indices, 4), codebook)
    weight = Packing((2, 3, 4, 4), 4, channels_last.stride()).weight(pack(indices, 4), codebook)
    assert weight.stride() == channels_last.stride() and torch.equal(weight, plain)


@pytest.mark.parametrize(
    ("n_entries", "bits"),
    [(1, 4), (16, 4), (17, 8), (256, 8), (257, 16), (65_536, 16), (65_537, None)],
)
def test_indices_take_the_fewest_bits_that_are_quick_to_decode(n_entries, bits):
    assert bits_for(n_entries) == bits
