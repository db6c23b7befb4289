"""The adaptive coder: the kernel against its twin, round trips, and what it learns."""

import itertools
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from moeash.codec.adaptive import _rows, model
from moeash.codec.adaptive import coder as adaptive
from moeash.errors import CorruptContainerError, InputError
from tests.codec.adaptive.drawing import (
    ALPHABETS,
    assert_round_trip,
    draw_tensor,
    encoded_bytes,
    hostile_streams,
    load_module,
    order0_bytes,
    problems,
    shapes_of,
)
from tests.codec.paths import draw_path
from tests.marks import slow

twin = load_module("adaptive_twin", Path(__file__).with_name("twin.py"))

GOLDEN = "c666a7f8471924bf94bd"
GOLDEN_IN_UNITS_OF_4 = "c79be3a640ef33c0f3"


# --- the definition -------------------------------------------------------------------------


def golden():
    kernel = np.array([4, 4, 3, 4, 5, 4, 0, 4, 4, 9, 4, 4, 4, 2, 4, 4, 4, 6], np.uint8)
    linear = np.array([4, 5, 4, 4, 20, 4, 4, 3], np.uint8)
    return [(kernel, (2, 1, 3, 3)), (linear, (4, 2))], 41, 4


@pytest.mark.parametrize("shift, expected", [(0, GOLDEN), (2, GOLDEN_IN_UNITS_OF_4)])
def test_the_bytes_of_a_small_network_never_change(shift, expected):
    tensors, n_entries, zero = golden()
    assert adaptive.encode(tensors, n_entries, zero, shift=shift).hex() == expected
    lists = [(indices.tolist(), shape) for indices, shape in tensors]
    assert twin.encode(lists, n_entries, zero, shift=shift).hex() == expected


SHIFTS = st.just(0) | st.integers(0, 4) | st.integers(0, adaptive.MAX_SHIFT)


@given(problems(), SHIFTS)
@settings(deadline=None, max_examples=80)
def test_kernel_and_twin_write_the_same_bytes_and_read_each_other(problem, shift):
    tensors, n_entries, zero = problem
    data = assert_round_trip(tensors, n_entries, zero, shift)
    lists = [(indices.tolist(), shape) for indices, shape in tensors]
    assert twin.encode(lists, n_entries, zero, shift=shift) == data
    decoded = twin.decode(data, shapes_of(tensors), n_entries, zero, shift=shift)
    assert decoded == [indices for indices, _ in lists]


@st.composite
def trellis_problems(draw):
    """Tensors on paths of their own trellises, some without, and an alphabet."""
    n_entries = draw(st.sampled_from([1, 2, 3, 4, 41, 300, 5_000]) | st.integers(1, 9))
    zero = draw(st.sampled_from([0, n_entries - 1, n_entries // 2]) | st.integers(0, n_entries - 1))
    scale = draw(st.sampled_from([0.05, 0.7, 4.0, 3e3]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    paths = draw(st.lists(st.sampled_from([0, 4, 8, 16]), min_size=1, max_size=3))
    shapes = [(7, 4, 3, 2), (30, 5), (13,), (1, 9), (0, 3), (5, 4, 3), ()]
    tensors = [
        draw_path(rng, shapes[rng.integers(len(shapes))], n_entries, zero, n_states, scale)
        for n_states in paths
    ]
    return tensors, n_entries, zero, paths


@pytest.mark.slow
@given(trellis_problems(), SHIFTS)
@settings(deadline=None, max_examples=60)
def test_kernel_and_twin_agree_along_trellises(problem, shift):
    tensors, n_entries, zero, paths = problem
    data = adaptive.encode(*problem, shift=shift)
    decoded = adaptive.decode(data, shapes_of(tensors), n_entries, zero, paths, shift=shift)
    for got, (indices, _) in zip(decoded, tensors, strict=True):
        assert_array_equal(got, indices)
    lists = [(indices.tolist(), shape) for indices, shape in tensors]
    assert twin.encode(lists, n_entries, zero, paths, shift) == data
    decoded = twin.decode(data, shapes_of(tensors), n_entries, zero, paths, shift)
    assert decoded == [indices for indices, _ in lists]


@pytest.mark.slow
@pytest.mark.parametrize("n_states", [4, 8, 16])
def test_a_path_of_many_rows_is_written_alike_by_kernel_and_twin(n_states):
    rng = np.random.default_rng(n_states)
    tensors = [draw_path(rng, (400, 3, 4), 41, 20, n_states, scale) for scale in (0.3, 2.0, 9.0)]
    data = adaptive.encode(tensors, 41, 20, [n_states] * 3)
    lists = [(a.tolist(), shape) for a, shape in tensors]
    assert twin.encode(lists, 41, 20, [n_states] * 3) == data


@pytest.mark.parametrize("n_states", [4, 8, 16])
def test_levels_cost_little_more_than_their_entropy_given_the_half(n_states):
    rng = np.random.default_rng(1)
    rows, columns = 500, 300
    values = np.zeros((rows, columns), dtype=np.int64)
    states = np.zeros(columns, dtype=np.int64)
    steps = np.array(twin.TRELLISES[n_states])
    bits = 0.0
    for row in range(rows):  # zero is rare in half 1, where it costs most
        halves = steps[states, 0]
        p = np.array([[0.1, 0.2, 0.4, 0.2, 0.1], [0.05, 0.42, 0.06, 0.42, 0.05]])[halves]
        levels = (rng.random((columns, 1)) > p.cumsum(1)).sum(1).clip(0, 4) - 2
        bits -= np.log2(p[np.arange(columns), levels + 2]).sum()
        values[row] = 2 * levels - halves * np.sign(levels)
        states = steps[states, 1 + (levels & 1)]
    tensors = [((values + 4).astype(np.uint8).ravel(), (rows, columns))]
    along = len(adaptive.encode(tensors, 9, 4, [n_states]))
    assert along < 1.007 * bits / 8
    assert along < 0.75 * len(adaptive.encode(tensors, 9, 4))


@pytest.mark.parametrize("n_states", [4, 8, 16])
def test_indices_off_their_trellis_are_refused(n_states):
    rng = np.random.default_rng(2)
    indices, shape = draw_path(rng, (20, 10), 41, 20, n_states, 4.0)
    indices[3] ^= 1
    with pytest.raises(InputError, match=f"tensor 0 does not follow the trellis of {n_states}"):
        adaptive.encode([(indices, shape)], 41, 20, [n_states])


def test_trellises_must_be_as_many_as_tensors_and_exist():
    tensors, n_entries, zero = golden()
    with pytest.raises(InputError, match="1 trellises for 2 tensors"):
        adaptive.encode(tensors, n_entries, zero, [4])
    with pytest.raises(InputError, match="no trellis of 5 states"):
        adaptive.encode(tensors, n_entries, zero, [0, 5])


@pytest.mark.parametrize("shift", [0, slow(3)])
@pytest.mark.parametrize("n_entries", [2, 3, slow(41), 300, slow(5_000)])
def test_hostile_streams_along_trellises_are_refused_or_decode_to_a_path(n_entries, shift):
    rng = np.random.default_rng(n_entries)
    zero = int(rng.integers(n_entries))
    paths = [8, 0, 4, 16]
    tensors = [
        draw_path(rng, shape, n_entries, zero, n_states, n_entries / 9)
        for shape, n_states in zip([(4, 3, 3, 3), (5, 4), (9, 4), (6, 2)], paths, strict=True)
    ]
    stream = adaptive.encode(tensors, n_entries, zero, paths, shift=shift)
    refused = 0
    for altered in hostile_streams(rng, stream, 300):
        try:
            decoded = adaptive.decode(
                altered, shapes_of(tensors), n_entries, zero, paths, shift=shift
            )
        except CorruptContainerError:
            refused += 1
            continue
        again = list(zip(decoded, shapes_of(tensors), strict=True))
        assert len(adaptive.encode(again, n_entries, zero, paths, shift=shift)) == len(altered)
    assert refused > 90


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 2])
def test_kernel_and_twin_agree_after_every_limit_of_the_counters(shift):
    # 6,000 learning steps, 4,000 weights of the running mean, 2,000 of a channel, 300 rows,
    # 1,000 columns, 250 observations of a context, 31 taps: each limit is passed once.
    rng = np.random.default_rng(5)
    tensors = [
        draw_tensor(rng, (900, 2, 7), 41, 20, 1.5),
        draw_tensor(rng, (4, 1100), 41, 20, 0.7),
        draw_tensor(rng, (20, 4, 6, 6), 41, 20, 3.0),
        draw_tensor(rng, (3, 500), 41, 20, 0.02),
    ]
    data = adaptive.encode(tensors, 41, 20, shift=shift)
    lists = [(a.tolist(), shape) for a, shape in tensors]
    assert twin.encode(lists, 41, 20, shift=shift) == data


def test_the_tables_are_those_of_the_real_functions():
    table = model.tables()
    x = np.arange(-2047, 2048)
    assert_array_equal(np.abs(table.squash[1:] - 65536 / (1 + np.exp(-x / 256))) < 1, True)
    middle = 16 * np.arange(4096) + 8
    assert_array_equal(table.squash[table.stretch + 2048] >= middle, table.stretch < 2047)
    assert_array_equal(table.squash[table.stretch + 2047] < middle, table.stretch > -2047)
    means = (np.arange(4096) + 0.5)[None] / np.array([[1024], [16]])
    assert_array_equal(table.logs, np.floor(256 * np.log(means + 1 / 64)).ravel())


def test_the_kernel_is_built_from_this_version():
    assert _rows.layout()[:4] == (8, 6, 1024, 8)


# --- round trips ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_entries", ALPHABETS)
@pytest.mark.parametrize("length", [0, 1, 2, 1000, slow(100_000)])
@pytest.mark.parametrize("spread", [0.1, 1.0, 1000.0])
def test_every_alphabet_and_length_comes_back(n_entries, length, spread):
    rng = np.random.default_rng(length)
    shifts = [0, 1, 4, 15] if length <= 1000 else [0, 4]
    for zero, shift in itertools.product({0, n_entries // 3, n_entries - 1}, shifts):
        tensors = [draw_tensor(rng, (length,), n_entries, zero, spread)]
        assert_round_trip(tensors, n_entries, zero, shift)


@pytest.mark.parametrize("shape", [(), (500,), (20, 30), (8, 5, 7), (6, 4, 3, 3), (3, 2, 3, 4, 5)])
def test_every_number_of_axes_comes_back(shape):
    rng = np.random.default_rng(1)
    assert_round_trip([draw_tensor(rng, shape, 300, 120, 9.0)] * 3, 300, 120)


@pytest.mark.slow
def test_streams_that_end_with_a_carry_come_back():
    # One in some hundreds does: its last bytes round up into those already written.
    rng = np.random.default_rng(10)
    for _ in range(3000):
        assert_round_trip([draw_tensor(rng, (30,), 41, 20, 5.0)], 41, 20)


def test_the_largest_alphabet_comes_back():
    top = adaptive.MAX_ENTRIES - 1
    indices = np.array([0, top, 1, top - 1, top // 2, 0, 0, top], np.uint32)
    for zero, shift in itertools.product((0, 1, top // 2, top), (0, 3, 15)):
        assert_round_trip([(indices, (2, 4))], adaptive.MAX_ENTRIES, zero, shift)


def test_wider_dtypes_than_needed_give_the_same_bytes():
    tensors, n_entries, zero = golden()
    wide = [(indices.astype(np.uint32), shape) for indices, shape in tensors]
    assert adaptive.encode(wide, n_entries, zero) == adaptive.encode(tensors, n_entries, zero)


def test_one_entry_takes_no_bytes():
    assert adaptive.encode([(np.zeros(12, np.uint8), (3, 4))], 1, 0) == b""


# --- what it learns -------------------------------------------------------------------------


def test_independent_symbols_cost_their_entropy_and_little_more():
    rng = np.random.default_rng(2)
    indices = rng.choice(5, p=[0.05, 0.2, 0.5, 0.2, 0.05], size=200_000).astype(np.uint8)
    tensors = [(indices, (400, 500))]
    assert encoded_bytes(tensors, 5, 2) < 1.006 * order0_bytes(tensors)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scales_that_differ_along_an_axis_are_found(axis):
    rng = np.random.default_rng(3)
    shape = [1, 1, 1]
    shape[axis] = -1
    scales = np.geomspace(0.1, 4, (64, 64, 9)[axis]).reshape(shape)
    values = np.rint(rng.laplace(size=(64, 64, 9)) * scales).clip(-20, 20) + 20
    tensors = [(values.astype(np.uint8).ravel(), (64, 64, 3, 3))]
    ideal = sum(
        order0_bytes([(part.astype(np.uint8).ravel(), ())])
        for part in np.split(values, values.shape[axis], axis=axis)
    )
    assert encoded_bytes(tensors, 41, 20) < 0.35 * order0_bytes(tensors) + 0.65 * ideal


def test_all_zero_columns_cost_almost_nothing():
    rng = np.random.default_rng(4)
    values = rng.integers(0, 3, size=(300, 400)).astype(np.uint8)
    live = encoded_bytes([(values[:, ::2].ravel(), (300, 200))], 3, 1)
    values[:, 1::2] = 1
    both = encoded_bytes([(values.ravel(), (300, 400))], 3, 1)
    assert both < 1.02 * live


def test_filters_that_are_zero_silence_the_channels_that_read_them():
    rng = np.random.default_rng(6)
    first = rng.integers(0, 3, size=(64, 30)).astype(np.uint8)
    second = rng.integers(0, 3, size=(8, 64, 9)).astype(np.uint8)
    second[:, ::2] = 1
    related = first.copy()
    related[::2] = 1
    after = [encoded_bytes([(first.ravel(), (64, 30)), (second.ravel(), (8, 64, 3, 3))], 3, 1)]
    after.append(
        encoded_bytes([(related.ravel(), (64, 30)), (second.ravel(), (8, 64, 3, 3))], 3, 1)
    )
    alone = [encoded_bytes([(a.ravel(), (64, 30))], 3, 1) for a in (first, related)]
    assert after[1] - alone[1] < 0.97 * (after[0] - alone[0])


# --- units ----------------------------------------------------------------------------------


def laplacian(mean, n=20_000, n_entries=300):
    rng = np.random.default_rng(11)
    zero = n_entries // 2
    values = np.rint(rng.laplace(size=n) * mean).clip(-zero, n_entries - 1 - zero)
    return [((values + zero).astype(np.uint16), (n // 100, 100))], zero


def test_an_average_weight_has_about_one_unit():
    for mean in (3, 6, 12, 30):
        tensors, zero = laplacian(mean)
        assert 0.72 < mean / 2 ** adaptive.choose_shift(tensors, zero) < 2.34
    tensors, zero = laplacian(2)
    assert adaptive.choose_shift(tensors, zero) == 0


def test_the_rule_for_units_has_exact_bounds():
    # A mean magnitude of 2.34 is the first of units of two.
    for above, shift in [(0, 0), (1, 1)]:
        indices = np.full(10_000, 2, np.uint8)
        indices[: 3400 - 1 + above] = 3
        assert adaptive.choose_shift([(indices, (10_000,))], 0) == shift


def test_a_stream_of_few_weights_has_units_of_one():
    tensors, zero = laplacian(30, n=9_900)
    assert adaptive.choose_shift(tensors, zero) == 0


def test_levels_of_a_trellis_count_as_half_their_distance():
    rng = np.random.default_rng(12)
    tensors = [draw_path(rng, (200, 100), 300, 150, 8, 8.0)]
    along = adaptive.choose_shift(tensors, 150, [8])
    assert along == adaptive.choose_shift(tensors, 150) - 1 > 0


@pytest.mark.slow
def test_any_mean_magnitude_has_a_unit():
    indices = np.full(10_000, adaptive.MAX_ENTRIES - 1, np.uint32)
    assert adaptive.choose_shift([(indices, (10_000,))], 0) == adaptive.MAX_SHIFT


@pytest.mark.parametrize("mean", [2.4, 5, 20])
def test_units_chosen_by_the_rule_cost_no_bytes(mean):
    tensors, zero = laplacian(mean, n=200_000)
    shift = adaptive.choose_shift(tensors, zero)
    assert shift > 0
    in_units = encoded_bytes(tensors, 300, zero, shift=shift)
    assert in_units < 1.001 * encoded_bytes(tensors, 300, zero)


@pytest.mark.parametrize("shift", [-1, 16])
def test_other_units_are_refused(shift):
    with pytest.raises(InputError, match=f"units of 2\\*\\*{shift}; the adaptive coder takes"):
        adaptive.encode([], 41, 20, shift=shift)
    with pytest.raises(InputError, match=f"units of 2\\*\\*{shift}; the adaptive coder takes"):
        adaptive.decode(b"", [], 41, 20, shift=shift)
