import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moeash.codec.bits import BitReader, BitWriter
from moeash.codec.pools import fit, plan_pool
from moeash.codec.static import ans, huffman
from moeash.codec.static.tables import FRACTION_BITS, Rows, Table, log2_fixed
from moeash.errors import CorruptContainerError
from tests.entropy import entropy_bits

histograms = st.lists(
    st.sampled_from([0, 0, 1, 2, 3, 7, 100, 10_000, 2**33]), min_size=1, max_size=60
).filter(any)


def test_no_logarithm_is_near_where_rounding_changes():
    # Then every libm that is good to 1e-10 rounds all of them alike.
    worst = 1.0
    for begin in range(1, 2**24 + 1, 2**20):
        scaled = np.log2(np.arange(begin, min(begin + 2**20, 2**24 + 1))) * 2**FRACTION_BITS
        off_half = np.abs(scaled - np.floor(scaled) - 0.5)
        worst = min(worst, off_half.min())
    assert worst > 1e-9


def test_fixed_point_logarithms_of_powers_of_two_are_exact():
    assert_array_equal(log2_fixed(2 ** np.arange(25)), np.arange(25) << FRACTION_BITS)


@given(histograms, st.sampled_from([ans, huffman]))
@settings(deadline=None)
def test_a_table_comes_back_and_takes_the_bits_it_is_said_to(counts, coding):
    counts = np.array(counts)
    rows = Rows.of(counts[np.newaxis])
    best = fit(coding, rows)
    resolution = int(best.resolution[0])
    table = Table(
        counts.size,
        rows.symbols,
        coding.levels(rows, resolution),
        resolution,
        int(best.predictor[0]),
        int(best.order[0]),
    )
    ans_only = coding is ans
    bits = BitWriter()
    table.write(bits, with_resolution=ans_only)
    assert bits.n_bits == best.table_bits[0]
    reader = BitReader(bits.to_bytes())
    again = Table.read(reader, counts.size, int(counts.sum()), with_resolution=ans_only)
    reader.finish()
    assert_array_equal(again.symbols, np.flatnonzero(counts))
    assert_array_equal(again.levels, table.levels)
    assert again.resolution == resolution


@pytest.mark.slow
@given(st.lists(histograms, min_size=2, max_size=5), st.sampled_from(["ans", "huffman"]))
@settings(deadline=None)
def test_planning_together_costs_no_more_than_planning_alone(several, coder):
    width = max(map(len, several))
    counts = [np.array(h + [0] * (width - len(h))) for h in several]
    together = plan_pool(coder, counts)
    alone = [plan_pool(coder, [c]) for c in counts]

    def cost(plan):
        return int(plan.payload.sum()) + (
            (plan.pool_bits + int(plan.table_bits.sum())) << FRACTION_BITS
        )

    assert cost(together) <= sum(map(cost, alone)) + (1 << FRACTION_BITS)  # one flag bit


@given(st.lists(histograms, min_size=2, max_size=5), st.sampled_from([ans, huffman]))
@settings(deadline=None)
def test_tables_fitted_together_are_those_fitted_one_by_one(several, coding):
    width = max(map(len, several))
    counts = np.array([h + [0] * (width - len(h)) for h in several])
    together = fit(coding, Rows.of(counts))
    for row, one in enumerate(counts):
        alone = fit(coding, Rows.of(one[np.newaxis]))
        for field in ("table_bits", "payload", "resolution", "predictor", "order"):
            assert getattr(together, field)[row] == getattr(alone, field)[0]


def test_alike_tensors_use_one_table_and_unlike_ones_their_own():
    bell = np.array([1, 30, 400, 900, 420, 28, 2])
    slope = np.array([4000, 0, 10, 0, 0, 70, 9000])
    alike = plan_pool("ans", [bell] * 6)
    assert_array_equal(alike.kinds, [0] * 6)
    mixed = plan_pool("ans", [bell] * 6 + [slope])
    assert_array_equal(mixed.kinds, [0] * 6 + [1])


def test_small_tensors_share_a_table_beside_one_that_outweighs_them():
    bell = np.array([1, 30, 400, 900, 420, 28, 2])
    plan = plan_pool("ans", [bell] * 12 + [np.array([7, 5, 3, 1, 3, 5, 7]) * 10_000])
    assert_array_equal(plan.kinds[:12], 0)


def test_a_table_of_its_own_is_near_the_entropy():
    rng = np.random.default_rng(0)
    counts = np.bincount(np.clip(rng.normal(40, 9, 300_000).astype(int), 0, 80), minlength=81)
    plan = plan_pool("ans", [counts])
    ideal = entropy_bits(counts)
    assert ideal <= plan.payload[0] / 2**FRACTION_BITS <= ideal * 1.001
    assert plan.table_bits[0] <= 81 * 6


@pytest.mark.parametrize(
    "fields, message",
    [
        ([(0, 2), (0, 1), (0, 2), (5, 3), (2, 3)], "covers symbols 5 to 2"),
        ([(0, 2), (0, 1), (0, 2), (0, 3), (7, 3)], "covers symbols 0 to 7"),
        (
            [(0, 2), (0, 1), (0, 2), (0, 3), (4, 3), (1, 1), (0b001001, 6), (0, 40)],
            "past",
        ),
    ],
)
def test_impossible_tables_are_refused(fields, message):
    bits = BitWriter()
    for value, width in fields:
        bits.fixed(value, width)
    with pytest.raises(CorruptContainerError, match=message):
        Table.read(BitReader(bits.to_bytes()), 5, 100, with_resolution=True)


def test_a_table_of_more_symbols_than_bits_is_refused_before_it_is_allocated():
    bits = BitWriter()
    bits.fixed(0, 2 + 1 + 2 + 40)
    bits.fixed(2**40 - 1, 40)
    bits.fixed(0, 1)
    with pytest.raises(CorruptContainerError, match="more symbols than the file has bits"):
        Table.read(BitReader(bits.to_bytes()), 2**40, 2**50, with_resolution=True)


def test_a_level_out_of_range_is_refused():
    bits = BitWriter()
    bits.fixed(0, 2 + 1 + 2 + 6)  # resolution, predictor, order, first = last = 0
    bits.fixed(0, 1)
    bits.golomb(512, 3)
    with pytest.raises(CorruptContainerError, match="level 513"):
        Table.read(BitReader(bits.to_bytes()), 5, 100, with_resolution=True)


@pytest.mark.parametrize("gappy", [False, True])
def test_a_table_of_more_symbols_than_elements_is_refused(gappy):
    symbols = np.array([0, 1, 2, 3, 9] if gappy else [0, 1, 2, 3, 4])
    bits = BitWriter()
    Table(10, symbols, np.ones(5, dtype=np.int64)).write(bits, with_resolution=True)
    data = bits.to_bytes()
    assert_array_equal(Table.read(BitReader(data), 10, 5, with_resolution=True).symbols, symbols)
    with pytest.raises(CorruptContainerError, match="more symbols than the 4 elements"):
        Table.read(BitReader(data), 10, 4, with_resolution=True)
