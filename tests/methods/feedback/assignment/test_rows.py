"""Rows that take up each other's errors: the recursion and its factor."""

import dataclasses
import pickle

import pytest
import torch

from moeash.errors import InputError
from moeash.methods.feedback.assignment.columns import (
    RowFactor,
    assign_feedback,
    code_lengths,
    nearest,
    prepare_feedback,
    rate_weight,
    zero_aligned_entries,
)
from moeash.methods.feedback.assignment.paths import assign_freely, assign_trellis
from moeash.methods.feedback.assignment.rows import coupled
from tests.entropy import index_bits
from tests.methods.feedback.assignment.row_curvature import between_rows, coupled_by
from tests.methods.feedback.assignment.test_columns import GRID, layer, problem
from tests.methods.feedback.assignment.test_paths import follows

FINE = zero_aligned_entries(-4.0, 4.0, 32)


def uncoupled(factor):
    """A factor whose rows are coupled, by nothing."""
    groups, n_rows, _ = factor.weight.shape
    order = torch.argsort(factor.sensitivity, dim=1, descending=True, stable=True)
    unit = torch.eye(n_rows).expand(groups, n_rows, n_rows).contiguous()
    return dataclasses.replace(factor, rows=RowFactor(order, unit, torch.ones(groups, n_rows)))


def loss(curvature, between, indices, entries=GRID):
    error = (entries[indices].reshape(curvature.weight.shape) - curvature.weight).double()
    return float(((between @ error @ curvature.gram) * error).sum())


# ------------------------------------------------------------------ the recursion


@pytest.mark.parametrize("price", [0.0, 0.05])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_optimal_brain_surgery_on_the_kronecker_product(seed, price):
    """Reference by definition: after every weight the rest is re-optimised in closed form."""
    curvature = problem(seed, rows=5, columns=6, correlation=1.5)
    between = between_rows(1, 5, seed)
    plain = prepare_feedback(curvature, damping=0.01)
    factor = coupled_by(plain, between)
    columns, rows = factor.order[0], factor.rows.order[0]
    gram = curvature.gram[0] + 0.01 * curvature.gram[0].diagonal().mean() * torch.eye(6)
    whole = torch.kron(gram[columns][:, columns], between[0][rows][:, rows])  # column by column
    moving = curvature.weight[0].double()[rows][:, columns].T.flatten().clone()
    lengths = code_lengths(nearest(curvature.weight, GRID), GRID.numel()).double()
    expected = torch.empty(30, dtype=torch.int64)
    for i in range(30):
        left = torch.linalg.inv(whole[i:, i:])
        cost = (moving[i] - GRID.double()).square() / left[0, 0] + price * lengths
        expected[i] = cost.argmin()
        error = moving[i] - GRID[expected[i]].double()
        moving[i:] -= error * left[0] / left[0, 0]
    natural = torch.empty(5, 6, dtype=torch.int64)
    natural[rows[:, None], columns] = expected.reshape(6, 5).T
    assert torch.equal(assign_freely(factor, GRID, price=price, passes=1), natural)
    if price == 0:
        assert not torch.equal(natural, assign_feedback(plain, GRID))


@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("groups", [1, 3])
def test_rows_coupled_by_nothing_are_assigned_as_independent_ones(price, groups):
    for seed in range(5):
        curvature = problem(seed, groups=groups, correlation=1.0)
        sensitivity = torch.rand(groups, 8, generator=torch.Generator().manual_seed(seed)) + 0.1
        factor = prepare_feedback(dataclasses.replace(curvature, sensitivity=sensitivity.double()))
        expected = assign_feedback(factor, GRID, price=price)
        assert torch.equal(assign_freely(uncoupled(factor), GRID, price=price), expected)
        assert torch.equal(assign_freely(factor, GRID, price=price), expected)


@pytest.mark.parametrize("n_states", [4, 8])
def test_rows_coupled_by_nothing_follow_the_paths_of_independent_ones(n_states):
    factor = prepare_feedback(problem(3, correlation=1.0))
    zero = int(FINE.abs().argmin())
    got = assign_trellis(uncoupled(factor), FINE, zero, n_states, price=0.01)
    assert torch.equal(got, assign_trellis(factor, FINE, zero, n_states, price=0.01))


def test_identities_and_no_rate_are_nearest_assignment():
    weight = torch.randn(1, 9, 70, generator=torch.Generator().manual_seed(1))
    factor = uncoupled(prepare_feedback(layer(weight, torch.eye(70)[None])))
    assert torch.equal(assign_freely(factor, GRID), nearest(weight[0], GRID))


@pytest.mark.parametrize("correlation", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(10))
def test_correlated_rows_always_gain(seed, correlation):
    curvature = problem(seed, rows=24, correlation=1.0)
    between = between_rows(1, 24, seed, correlation)
    plain = prepare_feedback(curvature)
    got = loss(curvature, between, assign_freely(coupled_by(plain, between), GRID))
    assert got < 0.9 * loss(curvature, between, assign_feedback(plain, GRID))


def test_uncorrelated_rows_gain_on_average():
    ratios = []
    for seed in range(30):
        curvature, between = problem(seed, rows=24), between_rows(1, 24, seed, 0.0)
        plain = prepare_feedback(curvature)
        got = loss(curvature, between, assign_freely(coupled_by(plain, between), GRID))
        ratios.append(got / loss(curvature, between, assign_feedback(plain, GRID)))
    assert sum(ratios) / len(ratios) < 0.97


@pytest.mark.parametrize("seed", range(5))
def test_correlated_rows_gain_on_a_trellis_too(seed):
    curvature = problem(seed, rows=24, correlation=1.0)
    between = between_rows(1, 24, seed, 2.0)
    plain = prepare_feedback(curvature)
    zero = int(FINE.abs().argmin())
    paired = coupled_by(plain, between, natural_order=True)
    got, alone = (assign_trellis(factor, FINE, zero, 8) for factor in (paired, plain))
    assert follows(got, 8)
    assert loss(curvature, between, got, FINE) < 0.8 * loss(curvature, between, alone, FINE)
    # Twice the choice of one state with half the entries: looking ahead pays for coupled rows too.
    every_other = FINE[zero % 2 :: 2]
    one = assign_freely(paired, every_other)
    assert loss(curvature, between, got, FINE) < 0.9 * loss(curvature, between, one, every_other)


def test_a_grouped_layer_equals_its_groups_one_by_one():
    curvature, between = problem(5, groups=3, correlation=1.0), between_rows(3, 8)
    together = assign_freely(coupled_by(prepare_feedback(curvature), between), GRID)
    for group in range(3):
        here = slice(group, group + 1)
        alone = coupled_by(
            prepare_feedback(layer(curvature.weight[here], curvature.gram[here])), between[here]
        )
        assert torch.equal(assign_freely(alone, GRID), together.reshape(3, 8, 40)[group])


def test_one_column_is_a_recursion_over_rows_alone():
    weight = torch.randn(1, 30, 1, generator=torch.Generator().manual_seed(2))
    between = between_rows(1, 30)
    factor = coupled_by(prepare_feedback(layer(weight, torch.full((1, 1, 1), 7.0))), between)
    turned = layer(weight.transpose(1, 2), between)
    rows = prepare_feedback(turned, damping=1e-9)
    assert torch.equal(assign_freely(factor, GRID).flatten(), assign_feedback(rows, GRID)[0])


def test_one_row_is_assigned_as_if_it_were_independent():
    factor = prepare_feedback(problem(4, rows=1, correlation=1.0))
    got = assign_freely(coupled_by(factor, torch.ones(1, 1, 1).double()), GRID, price=0.01)
    assert torch.equal(got, assign_feedback(factor, GRID, price=0.01))


@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("block", [1, 7, 40, 64])
def test_blocks_change_nothing(block, price):
    factor = coupled_by(prepare_feedback(problem(3, correlation=1.0)), between_rows(1, 8))
    whole = assign_freely(factor, GRID, price=price, block=1000)
    assert int(whole.min()) >= 0 and int(whole.max()) < GRID.numel()
    assert torch.equal(assign_freely(factor, GRID, price=price, block=block), whole)


def test_a_higher_rate_gives_fewer_bits_and_more_loss():
    curvature, between = problem(2, rows=64, correlation=1.0), between_rows(1, 64)
    factor = coupled_by(prepare_feedback(curvature), between)
    bits, losses = [], []
    for rate in (0.0, 0.1, 0.4):
        indices = assign_freely(factor, GRID, price=rate_weight([factor], 0.5, rate))
        bits.append(index_bits(indices))
        losses.append(loss(curvature, between, indices))
    assert bits[0] > bits[1] > bits[2]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entries": GRID[:0]}, "flat array of entries"),
        ({"price": -1.0}, "price -1.0"),
        ({"passes": 0}, "0 passes"),
        ({"block": 0}, "blocks of 0"),
    ],
)
def test_bad_calls_are_refused(change, message):
    factor = coupled_by(prepare_feedback(problem(0)), between_rows(1, 8))
    with pytest.raises(InputError, match=message):
        assign_freely(factor, **{"entries": GRID, **change})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_factor_on_a_device_is_assigned_as_on_the_host():
    factor = coupled_by(prepare_feedback(problem(1, correlation=1.0)), between_rows(1, 8))
    there = dataclasses.replace(
        factor,
        **{
            field.name: value.cuda()
            for field in dataclasses.fields(factor)
            if isinstance(value := getattr(factor, field.name), torch.Tensor)
        },
        rows=RowFactor(*(value.cuda() for value in vars(factor.rows).values())),
    )
    got = assign_freely(there, GRID.cuda(), price=0.01)
    assert got.is_cuda
    assert torch.equal(got.cpu(), assign_freely(factor, GRID, price=0.01))


# ------------------------------------------------------------------ its factor


@pytest.mark.parametrize("natural_order", [False, True])
def test_the_factor_is_that_of_the_damped_curvature_between_rows(natural_order):
    curvature = problem(1, groups=2, correlation=1.0)
    sensitivity = torch.rand(2, 8, generator=torch.Generator().manual_seed(3)).double() + 0.5
    plain = prepare_feedback(dataclasses.replace(curvature, sensitivity=sensitivity), damping=0.1)
    between = between_rows(2, 8)
    factor = coupled(plain, torch.stack([between, 3 * between]), natural_order=natural_order)
    precision = 1 / plain.variance.double()
    share = (plain.damped * precision).sum(1) / precision.sum(1)
    for g in range(2):
        order = factor.rows.order[g]
        ranked = torch.argsort(sensitivity[g], descending=True)
        assert order.tolist() == (list(range(8)) if natural_order else ranked.tolist())
        root = between[g].diagonal().sqrt()
        correlation = between[g] / root[:, None] / root
        damped = (1 - share[g]) * correlation + share[g] * torch.eye(8)
        scale = plain.sensitivity[g].double().sqrt()
        expected = torch.linalg.inv((damped * scale[:, None] * scale)[order][:, order])
        upper = (factor.rows.relief[g] / plain.sensitivity[g][order]).double().sqrt()[
            :, None
        ] * factor.rows.coupling[g].double()
        torch.testing.assert_close(upper.T @ upper, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(factor.rows.coupling[g].diagonal(), torch.ones(8))


def test_the_share_of_damping_is_that_of_the_curvature_left():
    """With C the unit factor: (C (damping I) C')_tt over (C (H + damping I) C')_tt."""
    curvature = problem(2, groups=2, correlation=1.0)
    factor = prepare_feedback(curvature, damping=0.2)
    for g in range(2):
        gram = curvature.gram[g][factor.order[g]][:, factor.order[g]]
        damping = 0.2 * gram.diagonal().mean() * torch.eye(40, dtype=torch.float64)
        unit = factor.coupling[g].double()
        left = (unit @ (gram + damping) @ unit.T).diagonal()
        torch.testing.assert_close(left, 1 / factor.variance[g].double(), rtol=1e-4, atol=0)
        expected = (unit @ damping @ unit.T).diagonal() / left
        torch.testing.assert_close(factor.damped[g].double(), expected, rtol=1e-4, atol=0)


def test_rows_the_images_know_nothing_of_stay_independent():
    factor = prepare_feedback(problem(1))
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.rand(2, 1, 8, generator=generator).double() + 0.5
    assert coupled(factor, torch.diag_embed(diagonal)) is factor
    assert coupled(factor, torch.zeros(2, 1, 8, 8).double()) is factor
    opposite = between_rows(1, 8)
    opposite = torch.stack([opposite, 2 * torch.diag_embed(opposite[0].diagonal()) - opposite])
    assert coupled(factor, opposite) is factor


def test_what_is_mostly_noise_is_shrunk():
    """Rows are independent: what few samples say of them gets weaker with their number."""
    factor = prepare_feedback(problem(1, rows=16))
    left = []
    for samples in (20, 200, 20_000):
        x = torch.randn(2, samples, 16, generator=torch.Generator().manual_seed(0)).double()
        found = coupled(factor, (x.transpose(1, 2) @ x)[:, None])
        left.append(1.0 if found.rows is None else float(found.rows.relief.mean()))
        raw = torch.linalg.inv(x[0].T @ x[0]).diagonal() * (x[0].T @ x[0]).diagonal()
        assert left[-1] < 1 + 0.2 * float(raw.mean() - 1)


def test_a_row_that_is_never_active_is_left_alone():
    between = between_rows(1, 8)
    between[:, 3] = 0
    between[:, :, 3] = 0
    sensitivity = torch.ones(1, 8).double()
    sensitivity[0, 3] = 0
    factor = prepare_feedback(dataclasses.replace(problem(1), sensitivity=sensitivity))
    found = coupled(factor, torch.stack([between, between]))
    place = found.rows.order[0].tolist().index(3)
    assert place == 7
    assert (found.rows.coupling[0, :7, 7] == 0).all()
    assert bool(torch.isfinite(found.rows.coupling).all())


def test_a_coupled_factor_travels():
    factor = coupled_by(prepare_feedback(problem(1)), between_rows(1, 8))
    there = pickle.loads(pickle.dumps(factor))
    assert torch.equal(assign_freely(there, GRID), assign_freely(factor, GRID))
