"""Rows that take up each other's errors: the recursion, its factor, and what is measured."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from moeash.data.arrays import torchvision_source
from moeash.errors import InputError
from moeash.methods.feedback import rows as module
from moeash.methods.feedback.columns import (
    RowFactor,
    assign_feedback,
    code_lengths,
    entropy_bits,
    nearest,
    prepare_feedback,
    rate_weight,
    zero_aligned_entries,
)
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.curvature import measure_curvature
from moeash.methods.feedback.paths import assign_coupled, assign_trellis
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.methods.feedback.rows import Sample, coupled, measure_between
from moeash.networks.sources import load_network
from tests.methods.feedback.row_curvature import between_rows, coupled_by
from tests.methods.feedback.test_columns import GRID, layer, problem
from tests.methods.feedback.test_paths import follows

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
    assert torch.equal(assign_coupled(factor, GRID, price=price, passes=1), natural)
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
        assert torch.equal(assign_coupled(uncoupled(factor), GRID, price=price), expected)


@pytest.mark.parametrize("n_states", [4, 8])
def test_rows_coupled_by_nothing_follow_the_paths_of_independent_ones(n_states):
    factor = prepare_feedback(problem(3, correlation=1.0))
    zero = int(FINE.abs().argmin())
    got = assign_trellis(uncoupled(factor), FINE, zero, n_states, price=0.01)
    assert torch.equal(got, assign_trellis(factor, FINE, zero, n_states, price=0.01))


def test_identities_and_no_rate_are_nearest_assignment():
    weight = torch.randn(1, 9, 70, generator=torch.Generator().manual_seed(1))
    factor = uncoupled(prepare_feedback(layer(weight, torch.eye(70)[None])))
    assert torch.equal(assign_coupled(factor, GRID), nearest(weight[0], GRID))


@pytest.mark.parametrize("correlation", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(10))
def test_correlated_rows_always_gain(seed, correlation):
    curvature = problem(seed, rows=24, correlation=1.0)
    between = between_rows(1, 24, seed, correlation)
    plain = prepare_feedback(curvature)
    got = loss(curvature, between, assign_coupled(coupled_by(plain, between), GRID))
    assert got < 0.9 * loss(curvature, between, assign_feedback(plain, GRID))


def test_uncorrelated_rows_gain_on_average():
    ratios = []
    for seed in range(30):
        curvature, between = problem(seed, rows=24), between_rows(1, 24, seed, 0.0)
        plain = prepare_feedback(curvature)
        got = loss(curvature, between, assign_coupled(coupled_by(plain, between), GRID))
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
    one = assign_coupled(paired, every_other)
    assert loss(curvature, between, got, FINE) < 0.9 * loss(curvature, between, one, every_other)


def test_a_grouped_layer_equals_its_groups_one_by_one():
    curvature, between = problem(5, groups=3, correlation=1.0), between_rows(3, 8)
    together = assign_coupled(coupled_by(prepare_feedback(curvature), between), GRID)
    for group in range(3):
        here = slice(group, group + 1)
        alone = coupled_by(
            prepare_feedback(layer(curvature.weight[here], curvature.gram[here])), between[here]
        )
        assert torch.equal(assign_coupled(alone, GRID), together.reshape(3, 8, 40)[group])


def test_one_column_is_a_recursion_over_rows_alone():
    weight = torch.randn(1, 30, 1, generator=torch.Generator().manual_seed(2))
    between = between_rows(1, 30)
    factor = coupled_by(prepare_feedback(layer(weight, torch.full((1, 1, 1), 7.0))), between)
    turned = layer(weight.transpose(1, 2), between)
    rows = prepare_feedback(turned, damping=1e-9)
    assert torch.equal(assign_coupled(factor, GRID).flatten(), assign_feedback(rows, GRID)[0])


def test_one_row_is_assigned_as_if_it_were_independent():
    factor = prepare_feedback(problem(4, rows=1, correlation=1.0))
    got = assign_coupled(coupled_by(factor, torch.ones(1, 1, 1).double()), GRID, price=0.01)
    assert torch.equal(got, assign_feedback(factor, GRID, price=0.01))


@pytest.mark.parametrize("price", [0.0, 0.01])
@pytest.mark.parametrize("block", [1, 7, 40, 64])
def test_blocks_change_nothing(block, price):
    factor = coupled_by(prepare_feedback(problem(3, correlation=1.0)), between_rows(1, 8))
    whole = assign_coupled(factor, GRID, price=price, block=1000)
    assert int(whole.min()) >= 0 and int(whole.max()) < GRID.numel()
    assert torch.equal(assign_coupled(factor, GRID, price=price, block=block), whole)


def test_a_higher_rate_gives_fewer_bits_and_more_loss():
    curvature, between = problem(2, rows=64, correlation=1.0), between_rows(1, 64)
    factor = coupled_by(prepare_feedback(curvature), between)
    bits, losses = [], []
    for rate in (0.0, 0.1, 0.4):
        indices = assign_coupled(factor, GRID, price=rate_weight([factor], 0.5, rate))
        bits.append(entropy_bits(indices))
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
        assign_coupled(factor, **{"entries": GRID, **change})


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
    got = assign_coupled(there, GRID.cuda(), price=0.01)
    assert got.is_cuda
    assert torch.equal(got.cpu(), assign_coupled(factor, GRID, price=0.01))


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
    assert torch.equal(assign_coupled(there, GRID), assign_coupled(factor, GRID))


# ------------------------------------------------------------------ what is measured


class Net(nn.Module):
    """Few rows at many positions, many rows at one, groups, and a layer used twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.stem = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.twice = nn.Linear(64, 64, bias=False)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x)).flatten(1)
        return self.head(torch.relu(self.twice(torch.relu(self.twice(x)))))


def images(n=10, seed=0):
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) + 0.3


def test_what_is_measured_is_the_covariance_of_what_columns_leave_of_the_gradients():
    """Reference: per-image weight gradients by autograd, of the same sketches.

    The head's sums go through positions, the stem's through gradients.
    """
    network, x = Net(), images()
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    found = measure_between(network, [x], factors, sketches=2, temperature=4.0, seed=7)
    assert set(found) == {"stem.weight", "twice.weight", "head.weight"}
    expected = {name: torch.zeros_like(total) for name, total in found.items()}
    generator = torch.Generator().manual_seed(7)
    p = (network(x) / 4.0).softmax(1).detach()
    for _ in range(2):
        root = p.sqrt() * (torch.randint(0, 2, p.shape, generator=generator) * 2 - 1)
        sketch = root - p * root.sum(1, keepdim=True)
        for i in range(len(x)):
            for factor in factors:
                if factor.name == "twice.weight":
                    continue  # sums its uses without the terms between them
                weight = network.get_parameter(factor.name)
                bias = network.get_parameter(str(factor.absorber))
                scalar = (network(x[i : i + 1]) * sketch[i]).sum()
                gradient, constant = torch.autograd.grad(scalar, [weight, bias])
                shape = factor.weight.shape
                left = gradient.reshape(shape) - constant.reshape(shape[:2]).unsqueeze(
                    2
                ) * factor.absorbed.unsqueeze(1)
                for g in range(shape[0]):
                    residual = (left[g][:, factor.order[g]] @ factor.coupling[g].T).double()
                    expected[factor.name][i % 2, g] += residual @ residual.T
    for name in ("stem.weight", "head.weight"):
        size = float(expected[name].abs().max())
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-5 * size)


def test_batches_of_any_even_size_give_the_same():
    """Sketches are drawn image by image, and every other image counts towards a half."""
    network, x = Net(), images(12)
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    whole = measure_between(network, [x], factors, sketches=1)
    pieces = measure_between(network, x.split(4), factors, sketches=1)
    assert set(whole) == {"stem.weight", "twice.weight", "head.weight"}
    for name, total in whole.items():
        size = float(total.abs().max())
        assert size > 0
        torch.testing.assert_close(pieces[name], total, rtol=1e-3, atol=1e-5 * size)


def test_wide_layers_and_embeddings_are_left_out(monkeypatch):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table = nn.Embedding(20, 6)
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            return self.head(torch.tanh(self.table(x).mean(1)))

    network = Words()
    x = torch.randint(0, 20, (12, 3), generator=torch.Generator().manual_seed(0))
    factors = [prepare_feedback(c) for c in measure_curvature(network, [x]).layers]
    assert set(measure_between(network, [x], factors)) == {"head.weight"}
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    assert measure_between(network, [x], factors) == {}
    prepared = prepare(network, x.split(4))
    assert all(factor.rows is None for factor in prepared.factors)


@pytest.mark.parametrize(
    ("n_images", "batch", "least", "most"),
    [
        (1, 1, 1, 1),
        (100, 7, 100, 100),
        (300, 50, 150, 150),
        (5000, 100, 1250, 1250),
        (4999, 77, 1250, 1250),
    ],
)
def test_the_images_kept_are_spread_evenly(n_images, batch, least, most):
    sample = Sample()
    stream = torch.arange(n_images)[:, None]
    assert torch.equal(torch.cat(list(sample.watch(stream.split(batch)))), stream)
    kept = torch.cat(list(sample.batches(64))).flatten()
    assert least <= len(kept) == len(sample) <= most
    assert kept[0] == 0
    assert len(kept) == 1 or len(kept.diff().unique()) == 1


def test_few_large_images_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MOST_ELEMENTS", 10 * 50)
    sample = Sample()
    list(sample.watch(torch.zeros(200, 50).split(8)))
    assert 5 <= len(sample) <= 10


# ------------------------------------------------------------------ the whole network


def test_preparing_couples_rows_or_leaves_them():
    network = Net().eval()
    alone = prepare(network, images(40).split(8), Settings(rows="independent"))
    assert all(factor.rows is None for factor in alone.factors)
    together = prepare(network, images(40).split(8))
    assert [factor.rows is None for factor in together.factors][1:] == [False, False]
    for one, other in zip(alone.factors, together.factors, strict=True):
        assert torch.equal(one.weight, other.weight) and torch.equal(one.coupling, other.coupling)
    on_trellises = prepare(network, images(40).split(8), Settings(common_order=True))
    for factor in on_trellises.factors[1:]:
        assert (factor.rows.order.diff(dim=1) == 1).all()


def test_the_same_images_give_the_same_indices():
    network = Net().eval()
    first, again = (compress(prepare(network, images(40).split(8)), 20, 0.05) for _ in range(2))
    for name, indices in first.indices.items():
        assert torch.equal(indices, again.indices[name])


def test_another_word_for_rows_is_refused():
    with pytest.raises(InputError, match="coupled or independent, got 'both'"):
        Settings(rows="both")


def log_probabilities(network, values, x):
    """Log probabilities of the network with some tensors replaced."""
    twin = copy.deepcopy(network).eval()
    twin.load_state_dict(twin.state_dict() | values)
    with torch.no_grad():
        return twin(x).double().log_softmax(1)


@pytest.mark.realdata
def test_coupled_rows_bring_lenet300_nearer_to_the_float_network_at_equal_bits(real_data):
    source = torchvision_source("MNIST", root=real_data / "mnist", preset="mnist", n_classes=10)
    calibration = source.images("train", np.arange(2000))
    seen = source.images("train", np.arange(55_000, 60_000))
    network = load_network("lenet300", checkpoint=real_data / "models/lenet300.safetensors")
    exact = log_probabilities(network, {}, seen)
    points = {}
    for rows in ("coupled", "independent"):
        settings = Settings(rows=rows, sketches=2, damping=0.1)
        prepared = prepare(network, calibration.split(100), settings)
        points[rows] = []
        for k in range(28, 44, 2):
            result = compress(prepared, k, 0.05)
            bits = sum(entropy_bits(indices) for indices in result.indices.values())
            found = log_probabilities(network, result.values, seen)
            kl = float((exact.exp() * (exact - found)).sum(1).mean())
            points[rows].append((np.log(kl), bits))
    # Bits on the line through the points, at a KL both reach.
    bits = {
        rows: np.polyval(np.polyfit(*zip(*found, strict=True), 1), np.log(0.006))
        for rows, found in points.items()
    }
    assert bits["coupled"] < 0.95 * bits["independent"]
