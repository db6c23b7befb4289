"""Scales of weights, curvatures and prices: what overflowed, and that ordinary layers stay."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.core.trellis import levels_of
from moeash.errors import InputError
from moeash.methods.feedback.assignment import _survivors
from moeash.methods.feedback.assignment.columns import (
    assign_feedback,
    nearest,
    prepare_feedback,
    zero_aligned_entries,
)
from moeash.methods.feedback.assignment.paths import assign_freely, assign_trellis
from moeash.methods.feedback.assignment.rows import coupled
from tests.methods.feedback.assignment.row_curvature import between_rows, coupled_by
from tests.methods.feedback.assignment.test_columns import layer, problem

ENTRIES = zero_aligned_entries(-4.0, 4.0, 32)
ZERO = int(ENTRIES.abs().argmin())


def ways(factor, entries, price):
    """Return the indices of a layer by every way of assigning it."""
    rows = factor.weight.shape[1]
    with_rows = coupled_by(factor, between_rows(factor.weight.shape[0], rows), natural_order=True)
    yield assign_feedback(factor, entries, price=price)
    yield assign_freely(with_rows, entries, price=price)
    for n_states in (4, 8, 16):
        yield assign_trellis(factor, entries, ZERO, n_states, price=price)
        indices = assign_trellis(with_rows, entries, ZERO, n_states, price=price)
        values = (indices.numpy() - ZERO).astype(np.int32)
        assert levels_of(values.ravel(), values.shape, n_states) is not None
        yield indices


def times(curvature, *, weight=1.0, gram=1.0, sensitivity=1.0):
    return dataclasses.replace(
        curvature,
        weight=curvature.weight * weight,
        gram=curvature.gram * gram,
        sensitivity=curvature.sensitivity * sensitivity,
    )


@pytest.mark.parametrize("power", [-96, -40, 0, 40, 96])
@pytest.mark.parametrize("price", [0.0, 0.01])
def test_a_power_of_two_in_weights_or_curvature_changes_no_choice(power, price):
    curvature, scale = problem(2, correlation=1.0), 2.0**power
    expected = list(ways(prepare_feedback(curvature), ENTRIES, price))
    scaled = prepare_feedback(times(curvature, weight=scale))
    for mine, other in zip(expected, ways(scaled, ENTRIES * scale, price * scale**2), strict=True):
        assert torch.equal(mine, other)
    for more in ({"gram": scale, "sensitivity": 1 / scale}, {"gram": scale}):
        scaled = prepare_feedback(times(curvature, **more))
        cost = price * scale if len(more) == 1 else price
        # B has the sensitivities of its own: ways that couple rows are for the first kind only.
        assert torch.equal(expected[0], assign_feedback(scaled, ENTRIES, price=cost))
        assert torch.equal(expected[2], assign_trellis(scaled, ENTRIES, ZERO, 4, price=cost))


exponents = st.integers(-30, 30)


@settings(max_examples=40, deadline=None)
@given(exponents, exponents, exponents, exponents, st.sampled_from(["none", "zero", "huge row"]))
def test_layers_of_any_scale_get_entries(weight, gram, sensitivity, price, odd):
    curvature = times(
        problem(3, rows=5, columns=12, groups=2, correlation=1.0),
        weight=10.0**weight,
        gram=10.0**gram,
        sensitivity=10.0**sensitivity,
    )
    if odd == "zero":
        curvature.weight[0], curvature.gram[1], curvature.sensitivity[0] = 0, 0, 0
    if odd == "huge row":
        curvature.weight[0, 2] *= 1e20 if weight < 17 else 1
        curvature.sensitivity[0, 2] *= 1e20
        curvature.gram[0, 3] *= 1e3
        curvature.gram[0, :, 3] *= 1e3
    factor = prepare_feedback(curvature, common_order=True)
    for values in (factor.variance, factor.sensitivity, factor.coupling, factor.damped):
        assert torch.isfinite(values).all()
    assert (factor.variance > 0).all() and (factor.sensitivity > 0).all()
    largest = float(curvature.weight.abs().max())
    entries = zero_aligned_entries(-largest, largest, 32)
    for indices in ways(factor, entries, 10.0**price):
        assert int(indices.min()) >= 0 and int(indices.max()) < len(entries)


def test_groups_whose_curvatures_are_far_apart_keep_their_own_trade():
    one = problem(4, rows=6, columns=10)
    gram = torch.cat([one.gram, one.gram * 1e-42, one.gram * 1e42])
    together = layer(one.weight.expand(3, 6, 10).clone(), gram)
    factor = prepare_feedback(together)
    got = assign_feedback(factor, ENTRIES, price=1e-3).reshape(3, 6, 10)
    # To the second group bits are all that counts, to the third nothing but distance.
    assert len(got[1].unique()) == 1
    assert torch.equal(got[2], assign_feedback(prepare_feedback(one), ENTRIES).reshape(6, 10))


@pytest.mark.parametrize("target", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("price", [0.0, 1.0, np.inf, np.nan])
@pytest.mark.parametrize("coupled_rows", [True, False])
@pytest.mark.parametrize("rows", [6, 70])
def test_the_kernel_gives_entries_whatever_numbers_it_is_handed(target, price, coupled_rows, rows):
    factor = prepare_feedback(problem(5, rows=rows, columns=9, correlation=1.0))
    call = kernel_arguments(factor, coupled_rows)
    call["moving"][0, 3] = target
    call["penalty"][:] = price
    _survivors.fix_columns(**call)
    chosen = call["chosen"]
    assert chosen.min() >= 0 and chosen.max() < len(ENTRIES)
    assert call["counts"].sum() == chosen.size
    levels = levels_of((chosen[0].T - ZERO).astype(np.int32).ravel(), (rows, 9), 8)
    assert levels is not None


def kernel_arguments(factor, coupled_rows):
    from moeash.methods.feedback.assignment.paths import _Alphabet

    alphabet = _Alphabet.of(ENTRIES, ZERO, 8)
    moving = factor.weight.transpose(1, 2).contiguous().numpy().copy()
    groups, columns, rows = moving.shape
    between = np.zeros((0, 0, 0), np.float32)
    if coupled_rows:
        between = np.triu(np.full((groups, rows, rows), 0.1, np.float32), 1)
    return {
        "moving": moving,
        "coupling": factor.coupling.numpy(),
        "variance": factor.variance.numpy(),
        "between": between,
        "penalty": np.zeros((groups, rows), np.float32),
        "start": 0,
        "stop": columns,
        "entries": alphabet.entries,
        "members": alphabet.members,
        "bounds": alphabet.bounds,
        "lengths": np.ones(alphabet.members.size, np.float32),
        "shortest": np.ones(4, np.float32),
        "transitions": alphabet.states.transitions.ravel(),
        "halves": alphabet.states.halves,
        "chosen": np.full(moving.shape, -7, np.int32),
        "carried": np.empty_like(moving),
        "counts": np.zeros((2, len(ENTRIES)), np.int64),
    }


WRONG = [
    ("stop", lambda a: 10),
    ("start", lambda a: -1),
    ("members", lambda a: a + np.int32(1)),
    ("bounds", lambda a: a[::-1].copy()),
    ("lengths", lambda a: a[1:].copy()),
    ("shortest", lambda a: a[1:].copy()),
    ("transitions", lambda a: a + np.uint8(1)),
    ("transitions", lambda a: a // 2),  # to half of the states only
    ("halves", lambda a: a + np.uint8(1)),
    ("variance", lambda a: a[:, 1:].copy()),
    ("coupling", lambda a: a[:, 1:].copy()),
    ("between", lambda a: a[:, 1:].copy()),
    ("penalty", lambda a: a[:, 1:].copy()),
    ("chosen", lambda a: a[:, 1:].copy()),
    ("carried", lambda a: a[:, :, 1:].copy()),
    ("counts", lambda a: a[:, 1:].copy()),
    ("entries", lambda a: a[1:].copy()),
]


@pytest.mark.parametrize(("name", "change"), WRONG)
def test_the_kernel_refuses_arrays_that_do_not_fit(name, change):
    factor = prepare_feedback(problem(5, rows=6, columns=9, correlation=1.0))
    call = kernel_arguments(factor, coupled_rows=True)
    with pytest.raises(InputError, match="do not fit"):
        _survivors.fix_columns(**{**call, name: change(call[name])})


def test_rows_of_a_singular_curvature_are_coupled_as_far_as_they_can_be():
    factor = prepare_feedback(problem(6, rows=8, columns=10, correlation=1.0), damping=1e-9)
    one = torch.randn(1, 8, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    singular = one @ one.transpose(1, 2)
    made = coupled(factor, torch.stack([singular, singular]) * (1 + 1e-9))
    assert made is not None and made.rows is not None
    assert torch.isfinite(made.rows.coupling).all() and torch.isfinite(made.rows.relief).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_rows_without_finite_curvature_are_not_coupled(value):
    factor = prepare_feedback(problem(6, rows=8, columns=10))
    between = between_rows(1, 8)[None].repeat(2, 1, 1, 1)
    between[0, 0, 2, 3] = value
    assert coupled(factor, between) is None


def test_rows_whose_moments_are_no_moments_are_not_coupled():
    factor = prepare_feedback(problem(6, rows=3, columns=10))
    between = torch.full((2, 1, 3, 3), -40.0, dtype=torch.float64)
    between.diagonal(dim1=2, dim2=3).fill_(1.0)
    assert coupled(factor, between) is None


def test_a_price_of_nothing_is_the_nearest_entry_at_any_scale():
    for scale in (1e-30, 1.0, 1e30):
        curvature = times(layer(problem(1).weight, torch.eye(40)[None]), weight=scale)
        grid = zero_aligned_entries(-4 * scale, 4 * scale, 32)
        got = assign_feedback(prepare_feedback(curvature), grid)
        assert torch.equal(got, nearest(curvature.weight[0], grid))
