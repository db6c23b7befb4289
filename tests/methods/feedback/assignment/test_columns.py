import dataclasses

import pytest
import torch
from torch import nn

from moeash.errors import InputError
from moeash.methods.feedback.assignment.columns import (
    assign_feedback,
    balancing_scales,
    nearest,
    output_shift,
    prepare_feedback,
    rate_weight,
    rescaled,
    rescaled_statistics,
    safe_scales,
    zero_aligned_entries,
)
from moeash.methods.feedback.curvature.measuring import LayerCurvature, measure_curvature
from tests.entropy import index_bits

GRID = zero_aligned_entries(-4.0, 4.0, 16)


def layer(weight, gram, sensitivity=None, absorbed=None):
    """One layer with the given rows and curvature."""
    weight = weight.float()
    groups, rows, columns = weight.shape
    return LayerCurvature(
        "w",
        (groups * rows, columns),
        weight,
        gram.double(),
        torch.ones(groups, rows).double() if sensitivity is None else sensitivity,
        None,
        torch.zeros(groups, columns).double() if absorbed is None else absorbed,
        None,
        1,
    )


def problem(seed, *, rows=8, columns=40, correlation=0.0, groups=1):
    """Random weights and the curvature of inputs with a shared component."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, rows, columns, generator=generator)
    x = torch.randn(groups, 200, columns, generator=generator).double()
    x += correlation * torch.randn(groups, 200, 1, generator=generator)
    return layer(weight, x.transpose(1, 2) @ x / 200)


def loss(curvature, indices, entries=GRID):
    error = (entries[indices].reshape(curvature.weight.shape) - curvature.weight).double()
    return float(((error @ curvature.gram) * error).sum())


@pytest.mark.parametrize("k", [1, 2, 7, 16, 101])
def test_identity_curvature_and_no_rate_is_nearest_assignment(k):
    weight = torch.randn(1, 9, 70, generator=torch.Generator().manual_seed(k))
    factor = prepare_feedback(layer(weight, torch.eye(70)[None]))
    entries = zero_aligned_entries(float(weight.min()), float(weight.max()), k)
    assert torch.equal(assign_feedback(factor, entries), nearest(weight[0], entries))


def test_a_weight_half_way_goes_to_the_lower_entry():
    weight = torch.tensor([[[-0.25, 0.25, 0.75]]])
    factor = prepare_feedback(layer(weight, torch.eye(3)[None]))
    assert GRID[assign_feedback(factor, GRID)].tolist() == [[-0.5, 0.0, 0.5]]


@pytest.mark.parametrize("seed", range(10))
def test_correlated_inputs_always_gain_from_feedback(seed):
    curvature = problem(seed, correlation=3.0)
    got = loss(curvature, assign_feedback(prepare_feedback(curvature), GRID))
    assert got < 0.9 * loss(curvature, nearest(curvature.weight, GRID))


def test_uncorrelated_inputs_gain_on_average():
    ratios = []
    for seed in range(30):
        curvature = problem(seed)
        got = loss(curvature, assign_feedback(prepare_feedback(curvature), GRID))
        ratios.append(got / loss(curvature, nearest(curvature.weight, GRID)))
    assert sum(ratios) / len(ratios) < 0.95


@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("block", [1, 7, 40, 64])
def test_blocks_change_nothing(block, price):
    factor = prepare_feedback(problem(3, correlation=1.0))
    whole = assign_feedback(factor, GRID, price=price, block=1000)
    assert torch.equal(assign_feedback(factor, GRID, price=price, block=block), whole)


def test_a_grouped_layer_equals_its_groups_one_by_one():
    curvature = problem(5, groups=3, correlation=1.0)
    factor = prepare_feedback(curvature)
    together = assign_feedback(factor, GRID).reshape(3, 8, 40)
    for group in range(3):
        alone = layer(curvature.weight[group : group + 1], curvature.gram[group : group + 1])
        assert torch.equal(assign_feedback(prepare_feedback(alone), GRID), together[group])


def test_one_column_is_rounded_exactly():
    weight = torch.tensor([[[0.3], [-1.2], [3.9]]])
    factor = prepare_feedback(layer(weight, torch.full((1, 1, 1), 7.0)))
    assert GRID[assign_feedback(factor, GRID)].flatten().tolist() == [0.5, -1.0, 4.0]


def test_feedback_is_the_greedy_path_of_the_schur_complements():
    """Reference by definition: after every column the rest is re-optimised in closed form."""
    curvature = problem(11, rows=3, columns=6, correlation=2.0)
    factor = prepare_feedback(curvature, damping=0.01, act_order=False)
    gram = curvature.gram[0]
    gram = gram + 0.01 * gram.diagonal().mean() * torch.eye(6)
    moving = curvature.weight[0].double().clone()
    expected = torch.empty(3, 6, dtype=torch.int64)
    for t in range(6):
        expected[:, t] = nearest(moving[:, t], GRID)
        error = GRID[expected[:, t]].double() - moving[:, t]
        if t < 5:
            # argmin over later columns of (e, x) H (e, x)' is x = -e H_t,later inv(H_later)
            moving[:, t + 1 :] -= torch.outer(
                error, torch.linalg.solve(gram[t + 1 :, t + 1 :], gram[t + 1 :, t])
            )
    assert torch.equal(assign_feedback(factor, GRID), expected)


def test_a_higher_rate_gives_fewer_bits_and_more_loss():
    curvature = problem(2, rows=64, correlation=1.0)
    factor = prepare_feedback(curvature)
    bits, losses = [], []
    for rate in (0.0, 0.1, 0.4):
        price = rate_weight([factor], 0.5, rate)
        indices = assign_feedback(factor, GRID, price=price)
        bits.append(index_bits(indices))
        losses.append(loss(curvature, indices))
    assert bits[0] > bits[1] > bits[2]
    assert losses[0] < losses[1] < losses[2]


def test_the_rate_means_the_same_when_loss_or_weights_are_measured_in_other_units():
    curvature = problem(4, correlation=1.0)
    plain = prepare_feedback(curvature)
    reference = assign_feedback(plain, GRID, price=rate_weight([plain], 0.5, 0.1))
    louder = prepare_feedback(dataclasses.replace(curvature, gram=curvature.gram * 1024))
    price = rate_weight([louder], 0.5, 0.1)
    assert torch.equal(assign_feedback(louder, GRID, price=price), reference)
    wider = prepare_feedback(dataclasses.replace(curvature, weight=curvature.weight * 8))
    price = rate_weight([wider], 4.0, 0.1)
    assert torch.equal(assign_feedback(wider, GRID * 8, price=price), reference)


def test_rows_that_do_not_matter_go_to_the_cheapest_entry():
    weight = torch.randn(1, 4, 200, generator=torch.Generator().manual_seed(0)) * 0.7
    sensitivity = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).double()
    factor = prepare_feedback(layer(weight, torch.eye(200)[None], sensitivity))
    indices = assign_feedback(factor, GRID, price=rate_weight([factor], 0.5, 0.1))
    assert (GRID[indices[3]] == 0).all()
    assert not (GRID[indices[0]] == 0).all()


@pytest.mark.parametrize("price", [0.0, 0.1])
def test_a_layer_without_any_curvature_gets_a_defined_answer(price):
    weight = torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(0))
    curvature = layer(weight, torch.zeros(1, 5, 5), torch.zeros(1, 4).double())
    indices = assign_feedback(prepare_feedback(curvature), GRID, price=price)
    if price == 0:
        assert torch.equal(indices, nearest(weight[0], GRID))
    assert int(indices.min()) >= 0 and int(indices.max()) < GRID.numel()


def test_columns_keep_their_place_under_act_order():
    weight = torch.tensor([[[1.0, 2.0, 3.0, -4.0]]])
    gram = torch.diag(torch.tensor([1.0, 4.0, 2.0, 3.0]))[None]
    factor = prepare_feedback(layer(weight, gram))
    assert factor.order.tolist() == [[1, 3, 2, 0]]
    assert GRID[assign_feedback(factor, GRID)].tolist() == [[1.0, 2.0, 3.0, -4.0]]


@pytest.mark.parametrize(
    "low, high, k", [(-1.0, 1.0, 4), (-0.3, 1.7, 9), (-2.0, 0.1, 33), (0.2, 1, 5)]
)
def test_the_grid_holds_zero_and_leaves_nothing_half_a_step_away(low, high, k):
    entries = zero_aligned_entries(low, high, k)
    step = (high - low) / k
    assert (entries == 0).any()
    assert (entries[1:] > entries[:-1]).all()
    weights = torch.linspace(low, high, 1001)
    distance = (weights - entries[nearest(weights, entries)]).abs().max()
    assert float(distance) <= step / 2 * (1 + 1e-5)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 6, 3, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.1, 2)
        self.eval()

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_rescaled_rows_with_rescaled_statistics_are_the_same_function():
    network, x = Pair(), torch.randn(30, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    scales = balancing_scales(factors)
    assert list(scales) == ["conv.weight"]
    assert float(scales["conv.weight"].log().mean().abs()) < 1e-6
    assert float(scales["conv.weight"].std()) > 0.01
    norm = network.norm
    scale = safe_scales(scales["conv.weight"], norm.running_var, norm.eps).flatten()
    with torch.no_grad():
        before = network(x)
        network.conv.weight.copy_(rescaled(factors[0], scale[None]).weight.reshape(6, 2, 3, 3))
        mean, variance = rescaled_statistics(norm.running_mean, norm.running_var, norm.eps, scale)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        torch.testing.assert_close(network(x), before, rtol=1e-4, atol=1e-5)


def test_safe_scales_keep_the_variance_of_dead_channels_non_negative():
    variance = torch.tensor([0.0, 1e-9, 1.0])
    scale = safe_scales(torch.full((1, 3), 0.1), variance, 1e-5)
    assert (rescaled_statistics(variance, variance, 1e-5, scale.flatten())[1] >= 0).all()
    assert float(scale[0, 2]) == pytest.approx(0.1)


def test_the_output_shift_restores_the_mean_output():
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(500, 10, generator=generator) + 1.0
    linear = nn.Linear(10, 4)
    curvature = measure_curvature(linear, [x], kind="inputs").layers[0]
    factor = prepare_feedback(curvature)
    indices = assign_feedback(factor, GRID)
    with torch.no_grad():
        lost = linear(x) - nn.functional.linear(x, GRID[indices], linear.bias)
        torch.testing.assert_close(
            output_shift(factor, indices, GRID), lost.mean(0), atol=1e-4, rtol=0
        )
        assert float(lost.mean(0).abs().max()) > 0.01


def test_bad_calls_are_refused_with_the_reason():
    curvature = problem(0)
    with pytest.raises(InputError, match="damping 0"):
        prepare_feedback(curvature, damping=0)
    broken = dataclasses.replace(curvature, gram=curvature.gram * float("nan"))
    with pytest.raises(InputError, match="'w' is not finite"):
        prepare_feedback(broken)
    factor = prepare_feedback(curvature)
    with pytest.raises(InputError, match="flat array of entries"):
        assign_feedback(factor, GRID[:0])
    with pytest.raises(InputError, match="price -1"):
        assign_feedback(factor, GRID, price=-1)
    with pytest.raises(InputError, match="no grid of 0 bins"):
        zero_aligned_entries(-1, 1, 0)


def test_a_curvature_that_rounding_made_indefinite_is_damped_until_it_is_not():
    gram = torch.eye(6, dtype=torch.float64)
    gram[0, 1] = gram[1, 0] = 1.2  # eigenvalues 2.2 and -0.2, far beyond a damping of 0.001
    weight = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    factor = prepare_feedback(layer(weight, gram[None]), damping=0.001)
    assert bool(torch.isfinite(factor.coupling).all()) and bool((factor.variance > 0).all())
    indices = assign_feedback(factor, GRID)
    assert torch.equal(indices[:, 2:], nearest(weight[0, :, 2:], GRID))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_assigns_as_the_cpu_does():
    curvature = problem(0, correlation=1.0)
    factor = prepare_feedback(curvature)
    moved = {
        field.name: value.cuda()
        for field in dataclasses.fields(factor)
        if isinstance(value := getattr(factor, field.name), torch.Tensor)
    }
    there = assign_feedback(dataclasses.replace(factor, **moved), GRID.cuda()).cpu()
    assert torch.equal(there, assign_feedback(factor, GRID))
