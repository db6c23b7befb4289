"""Assignment along trellises: the kernel against its twin, and what the search must achieve."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from moeash.core.trellis import levels_of, values_of
from moeash.errors import InputError
from moeash.methods.feedback.assignment import paths as module
from moeash.methods.feedback.assignment.columns import (
    RowFactor,
    assign_feedback,
    prepare_feedback,
    rate_weight,
    zero_aligned_entries,
)
from moeash.methods.feedback.assignment.paths import assign_trellis, nearest_path
from tests.codec.adaptive.twin import TRELLISES
from tests.entropy import index_bits
from tests.marks import slow
from tests.methods.feedback.assignment.row_curvature import between_rows, coupled_by
from tests.methods.feedback.assignment.test_columns import layer, loss, problem
from tests.methods.feedback.assignment.trellis_twin import cheapest_path, fix_columns

SIZES = [4, 8, 16]
FINE = zero_aligned_entries(-4.0, 4.0, 32)
ZERO = int(FINE.abs().argmin())
STEP = float(FINE[ZERO + 1])


def follows(indices, n_states, zero=ZERO):
    values = (indices.numpy() - zero).astype(np.int32).ravel()
    return levels_of(values, tuple(indices.shape), n_states) is not None


def half_entropies(indices, n_states, zero=ZERO):
    """Return the bits of a tensor when its levels have a table per half."""
    values = (indices.numpy() - zero).astype(np.int32)
    levels = levels_of(values.ravel(), values.shape, n_states).reshape(values.shape[0], -1)
    steps = np.array(TRELLISES[n_states])
    states = np.zeros(levels.shape[1], dtype=int)
    halves = np.zeros_like(levels)
    for row in range(len(levels)):
        halves[row] = steps[states, 0]
        states = steps[states, 1 + (levels[row] & 1)]
    return sum(index_bits(torch.from_numpy(levels[halves == half])) for half in (0, 1))


def chosen_twice(curvature, n_states, price, monkeypatch, *, coupled, entries=FINE):
    """Return what the kernel and its twin choose, ``(groups, columns, rows)``."""
    groups, rows, columns = curvature.weight.shape
    zero = int(entries.abs().argmin())
    rng = np.random.default_rng(n_states)
    sensitivity = torch.from_numpy(rng.uniform(0.5, 2, size=(groups, rows)))
    curvature = dataclasses.replace(curvature, sensitivity=sensitivity)
    factor = prepare_feedback(curvature, common_order=True)
    scale, between = factor.sensitivity, None
    if coupled:
        factor = coupled_by(factor, between_rows(groups, rows), natural_order=True)
        scale = factor.sensitivity / factor.rows.relief
        between = factor.rows.coupling.numpy()
    lengths = rng.uniform(0.1, 9, size=(2, len(entries))).astype(np.float32)
    monkeypatch.setattr(
        module._Alphabet, "lengths", lambda self, counts: lengths[self.halves, self.members]
    )
    got = assign_trellis(factor, entries, zero, n_states, price=price, block=1000)
    order = factor.order[0]
    expected = fix_columns(
        factor.weight[:, :, order].transpose(1, 2).contiguous().numpy(),
        factor.coupling.numpy(),
        factor.variance.numpy(),
        (price / scale).numpy(),
        entries.numpy(),
        zero,
        lengths,
        n_states,
        between=between,
    )
    return got.reshape(groups, rows, columns)[:, :, order].transpose(1, 2).numpy(), expected


@pytest.mark.parametrize("n_states", SIZES)
@pytest.mark.parametrize("price", [0.0, 0.02])
@pytest.mark.parametrize("groups", [1, slow(3)])
@pytest.mark.parametrize("rows", ["coupled", "independent"])
def test_kernel_and_twin_choose_the_same_entries(n_states, price, groups, rows, monkeypatch):
    curvature = problem(7, rows=9, columns=20, groups=groups, correlation=1.0)
    got, expected = chosen_twice(curvature, n_states, price, monkeypatch, coupled=rows == "coupled")
    assert_array_equal(got, expected)


@pytest.mark.parametrize("n_states", SIZES)
@pytest.mark.parametrize("rows", [31, 32, 33, 64, 100])
@pytest.mark.parametrize("groups", [1, slow(2)])
def test_survivors_that_have_rows_in_common_choose_as_if_each_had_its_own(
    n_states, rows, groups, monkeypatch
):
    curvature = problem(rows, rows=rows, columns=3, groups=groups, correlation=1.0)
    got, expected = chosen_twice(curvature, n_states, 0.02, monkeypatch, coupled=True)
    assert_array_equal(got, expected)


@pytest.mark.parametrize("n_states", SIZES)
@pytest.mark.parametrize("lonely", [40, 90])
def test_survivors_that_meet_late_or_never_choose_as_if_each_had_its_own(
    n_states, lonely, monkeypatch
):
    """A path of zeros down rows of zeros costs nothing and leads on from every state there is."""
    curvature = problem(n_states, rows=100, columns=2, correlation=1.0)
    curvature.weight[:, 6 : 6 + lonely] *= 1e-3
    coarse = zero_aligned_entries(-4.0, 4.0, 9)
    got, expected = chosen_twice(
        curvature, n_states, 0.0, monkeypatch, coupled=True, entries=coarse
    )
    assert_array_equal(got, expected)


@pytest.mark.parametrize("n_states", SIZES)
def test_of_paths_of_equal_cost_that_from_the_lower_state_is_taken(n_states, monkeypatch):
    """Weights halfway between entries are as far from the one as from the other."""
    rng = np.random.default_rng(n_states)
    halfway = torch.from_numpy(rng.integers(-12, 13, size=(1, 40, 6))).float() * STEP / 2
    curvature = layer(halfway, torch.eye(6, dtype=torch.float64)[None])
    got, expected = chosen_twice(curvature, n_states, 0.0, monkeypatch, coupled=False)
    assert_array_equal(got, expected)


@pytest.mark.parametrize("entries", ["even", "uneven", "two", "one"])
def test_entries_anywhere_are_found_where_they_are(entries, monkeypatch):
    """Where entries lie unevenly, many are in one cell of the guide that finds the nearest."""
    made = {
        "even": torch.linspace(-4, 4, 41),
        "uneven": torch.cat(
            [-torch.logspace(1, -6, 30), torch.zeros(1), torch.logspace(-6, 3, 40)]
        ),
        "two": torch.tensor([0.0, 1.0]),
        "one": torch.tensor([0.0]),
    }[entries]
    curvature = problem(11, rows=20, columns=5, correlation=1.0)
    curvature.weight[0, 3] = 1e6
    curvature.weight[0, 4] = -1e6
    for coupled in (False, True):
        got, expected = chosen_twice(curvature, 4, 0.02, monkeypatch, coupled=coupled, entries=made)
        assert_array_equal(got, expected)


@pytest.mark.parametrize("n_states", [slow(4), 8, slow(16)])
def test_no_path_of_a_column_is_cheaper_than_the_one_found(n_states):
    """Brute force over all levels of six rows."""
    rng = np.random.default_rng(n_states)
    for trial in range(5):
        entries = np.arange(-3, 4, dtype=np.float32)
        targets = rng.normal(size=6).astype(np.float32) * 1.5
        prices = rng.uniform(0, 0.3, size=6).astype(np.float32)
        lengths = rng.uniform(0.2, 5, size=(2, 7)).astype(np.float32)
        costs = []
        for levels in itertools.product(range(-2, 3), repeat=6):
            values = values_of(np.array(levels, np.int32), (6, 1), n_states)
            if np.abs(values).max() > 3:
                continue
            state, cost = 0, 0.0
            for row, value in enumerate(values):
                half, *following = TRELLISES[n_states][state]
                cost += (targets[row] - value) ** 2 + prices[row] * lengths[half, value + 3]
                state = following[levels[row] % 2]
            costs.append((cost, values.tolist()))
        found = cheapest_path(targets, prices, entries, 3, lengths, n_states) - 3
        assert found.tolist() == min(costs)[1], trial


@pytest.mark.parametrize("n_states", SIZES)
def test_identity_curvature_and_no_rate_is_the_best_path_of_every_column(n_states):
    rng = np.random.default_rng(1)
    weight = torch.from_numpy(rng.normal(size=(1, 6, 4)).astype(np.float32))
    factor = prepare_feedback(layer(weight, torch.eye(4)[None]))
    got = assign_trellis(factor, FINE, ZERO, n_states)
    assert torch.equal(got, nearest_path(weight[0], FINE, ZERO, n_states))
    for column in range(4):
        best = min(
            float(
                (
                    (
                        values_of(np.array(levels, np.int32), (6, 1), n_states) * STEP
                        - weight[0, :, column].numpy()
                    )
                    ** 2
                ).sum()
            )
            for levels in itertools.product(
                *(
                    [int(w / STEP / 2) - 1, int(w / STEP / 2), int(w / STEP / 2) + 1]
                    for w in weight[0, :, column].tolist()
                )
            )
        )
        mine = float(((FINE[got[:, column]] - weight[0, :, column]) ** 2).sum())
        assert mine <= best + 1e-5


@pytest.mark.parametrize("n_states", SIZES)
@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("rows", ["coupled", "independent"])
def test_every_column_follows_the_trellis(n_states, price, groups, rows):
    factor = prepare_feedback(problem(1, groups=groups, correlation=1.0), common_order=True)
    if rows == "coupled":
        factor = coupled_by(factor, between_rows(groups, 8), natural_order=True)
    indices = assign_trellis(factor, FINE, ZERO, n_states, price=price)
    assert indices.shape == factor.shape
    assert int(indices.min()) >= 0 and int(indices.max()) < len(FINE)
    assert follows(indices, n_states)
    assert len(torch.unique((indices - ZERO) % 2)) == 2


@pytest.mark.parametrize("n_states", SIZES)
def test_looking_ahead_beats_taking_the_nearest_allowed_entry(n_states):
    weight = torch.randn(1, 200, 5, generator=torch.Generator().manual_seed(3))
    got = FINE[nearest_path(weight[0], FINE, ZERO, n_states)]
    greedy = torch.empty_like(got)
    steps = TRELLISES[n_states]
    for column in range(5):
        state = 0
        for row in range(200):
            half, *following = steps[state]
            values = np.arange(len(FINE)) - ZERO
            allowed = np.flatnonzero((values % 2 == half) | (values == 0))
            entry = allowed[(FINE[allowed] - weight[0, row, column]).abs().argmin()]
            greedy[row, column] = FINE[entry]
            level = (abs(values[entry]) + 1) // 2
            state = following[level % 2]
    assert (got - weight[0]).square().sum() < 0.9 * (greedy - weight[0]).square().sum()


@pytest.mark.parametrize(("n_states", "decibels"), [(4, 0.7), (8, 0.8), (16, 0.85)])
def test_a_trellis_gains_on_independent_normal_weights_at_equal_bits(n_states, decibels):
    weight = torch.randn(1, 2000, 20, generator=torch.Generator().manual_seed(4))
    factor = prepare_feedback(layer(weight, torch.eye(20)[None]), damping=1e-6)
    points = []
    for step in (0.6, 0.8, 1.0, 1.2):
        entries = zero_aligned_entries(-8.0, 8.0, round(16 / step))
        chosen = assign_feedback(factor, entries, price=0.05 * step**2, passes=4)
        error = float((entries[chosen] - weight[0]).square().mean())
        points.append((index_bits(chosen) / chosen.numel(), 10 * np.log10(error)))
    fine = zero_aligned_entries(-8.0, 8.0, 28)
    zero = int(fine.abs().argmin())
    chosen = assign_trellis(factor, fine, zero, n_states, price=0.06, passes=4)
    error = 10 * np.log10(float((fine[chosen] - weight[0]).square().mean()))
    bits = half_entropies(chosen, n_states, zero) / chosen.numel()
    assert 1.4 < bits < 2.2
    assert np.interp(bits, *zip(*sorted(points), strict=True)) - error > decibels


@pytest.mark.parametrize("seed", range(5))
def test_correlated_inputs_gain_from_feedback_on_a_trellis_too(seed):
    curvature = problem(seed, correlation=3.0)
    got = assign_trellis(prepare_feedback(curvature), FINE, ZERO, 8)
    path = nearest_path(curvature.weight[0], FINE, ZERO, 8)
    assert loss(curvature, got, FINE) < 0.9 * loss(curvature, path, FINE)


@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("block", [1, 7, 40, 64])
def test_blocks_change_nothing(block, price):
    factor = prepare_feedback(problem(3, correlation=1.0))
    whole = assign_trellis(factor, FINE, ZERO, 8, price=price, block=1000)
    assert torch.equal(assign_trellis(factor, FINE, ZERO, 8, price=price, block=block), whole)


def test_groups_without_coupling_to_one_another_are_one_path_down_all_rows():
    """Groups of equal curvature and order are a layer of all their rows."""
    curvature = problem(5, rows=24, correlation=1.0)
    together = assign_trellis(prepare_feedback(curvature), FINE, ZERO, 8, price=0.01)
    grouped = layer(
        curvature.weight.reshape(3, 8, 40), curvature.gram.expand(3, 40, 40).contiguous()
    )
    factor = prepare_feedback(grouped, common_order=True)
    assert torch.equal(assign_trellis(factor, FINE, ZERO, 8, price=0.01), together)


def test_rows_in_an_order_of_their_own_are_refused():
    factor = prepare_feedback(problem(5, correlation=1.0))
    order = torch.arange(7, -1, -1)[None]
    factor = dataclasses.replace(
        factor, rows=RowFactor(order, torch.eye(8)[None], torch.ones(1, 8))
    )
    with pytest.raises(InputError, match="rows of 'w' are not coupled in their own order"):
        assign_trellis(factor, FINE, ZERO, 8)


def test_groups_with_orders_of_their_own_are_refused():
    factor = prepare_feedback(problem(5, groups=3, correlation=1.0))
    with pytest.raises(InputError, match="groups of 'w' differ in the order"):
        assign_trellis(factor, FINE, ZERO, 8)


def test_a_higher_rate_gives_fewer_bits_and_more_loss():
    curvature = problem(2, rows=64, correlation=1.0)
    factor = prepare_feedback(curvature)
    bits, losses = [], []
    for rate in (0.0, 0.1, 0.4):
        price = rate_weight([factor], 2 * STEP, rate)
        indices = assign_trellis(factor, FINE, ZERO, 8, price=price)
        bits.append(half_entropies(indices, 8))
        losses.append(loss(curvature, indices, FINE))
    assert bits[0] > bits[1] > bits[2]
    assert losses[0] < losses[1] < losses[2]


def test_the_same_input_gives_the_same_indices():
    factor = prepare_feedback(problem(6, correlation=1.0))
    first = assign_trellis(factor, FINE, ZERO, 8, price=0.01)
    assert torch.equal(assign_trellis(factor, FINE, ZERO, 8, price=0.01), first)


@pytest.mark.parametrize("shape", [(7,), (), (5, 3, 2, 2), (0, 3), (4, 0)])
def test_a_weight_of_any_shape_has_a_nearest_path(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    indices = nearest_path(weight, FINE, ZERO, 4)
    assert indices.shape == weight.shape
    assert follows(indices, 4)


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-2.0, 0.0), (-0.1, 0.1)])
def test_codebooks_with_few_or_one_sided_entries_have_paths(low, high):
    weight = torch.linspace(low, high, 40).reshape(20, 2)
    for k in (1, 2, 3):
        entries = zero_aligned_entries(low, high, k)
        zero = int(entries.abs().argmin())
        assert follows(nearest_path(weight, entries, zero, 8), 8, zero)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": -1.0}, "got price -1.0"),
        ({"passes": 0}, "0 passes"),
        ({"block": 0}, "blocks of 0"),
        ({"zero": 33}, "zero is entry 33"),
        ({"entries": FINE[None]}, "flat array"),
        ({"n_states": 5}, "no trellis of 5 states"),
    ],
)
def test_arguments_out_of_range_are_refused(change, message):
    factor = prepare_feedback(problem(1))
    arguments = {"entries": FINE, "zero": ZERO, "n_states": 8, **change}
    with pytest.raises(InputError, match=message):
        assign_trellis(factor, **arguments)
