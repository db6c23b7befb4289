"""The pull of WFN: its table against the formula as published."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moeash.methods.wfn.ladder import candidates
from moeash.methods.wfn.regularising import Pull, full_pull, scaled
from moeash.methods.wfn.select import select

ZERO = 2.0**-7


def pull_twin(w, centres, zero_below):
    """Return the pull of one weight, term by term."""
    distances = []
    for c in centres:
        if abs(w) > zero_below:
            distances.append(abs(w - c) / abs(w))
        else:
            distances.append(0.0 if c == 0 else abs(w - c))
    likely = np.exp(-(np.array(distances) - min(distances)) / 0.05)
    return float(np.dot(likely, distances) / likely.sum())


def codebooks():
    weights = np.random.default_rng(0).normal(0, 0.1, 3000).astype(np.float32)
    return {
        "powers": candidates(0.01, ZERO, 0.5, 0).copy(),
        "fine": select(weights, 0.9, 0.01, ZERO).entries,
        "coarse": select(weights, 0.3, 0.1, ZERO).entries,
        "zero": np.float32([0]),
        "no zero": np.float32([-0.25, 0.125, ZERO]),
    }


CODEBOOKS = codebooks()


@pytest.mark.parametrize("name", CODEBOOKS)
def test_the_full_pull_is_the_published_sum(name):
    centres = CODEBOOKS[name]
    w = np.random.default_rng(1).normal(0, 0.1, 200)
    w[:6] = [0, ZERO, -ZERO, 0.25, -0.3, 2.0]
    got = full_pull(torch.from_numpy(w), torch.from_numpy(centres).double(), ZERO)
    np.testing.assert_allclose(got, [pull_twin(x, centres, ZERO) for x in w], rtol=1e-12)


def probes(centres, zero_below):
    """Weights anywhere, and on and beside everything where the pull has kinks or steps."""
    draw = np.random.default_rng(2)
    on = np.float32([*centres, 0, zero_below, -zero_below])
    beside = [np.nextafter(on, np.float32(end)) for end in (-9, 9)]
    spread = [draw.normal(0, scale, 2000) for scale in (0.002, 0.05, 0.5, 3.0)]
    return np.concatenate([on, *beside, *spread]).astype(np.float32)


@pytest.mark.parametrize("zero_below", [ZERO, 0.01, 0.2])
@pytest.mark.parametrize("name", CODEBOOKS)
def test_the_table_is_the_full_pull_within_float_tolerance(name, zero_below):
    centres = CODEBOOKS[name]
    w = torch.from_numpy(probes(centres, zero_below))
    exact = w.double().requires_grad_()
    # In float32 as weights are, so that both agree on what counts as small.
    small = w.abs() <= zero_below
    threshold = float(w.abs()[small].max()) if small.any() else zero_below
    want = full_pull(exact, torch.from_numpy(centres).double(), threshold)
    (slopes,) = torch.autograd.grad(want.sum(), exact)
    tabulated = w.clone().requires_grad_()
    got = Pull(centres, zero_below)(tabulated)
    got.sum().backward()
    torch.testing.assert_close(got.double(), want, rtol=0, atol=2e-6)
    # On a kink any slope between those of its sides will do.
    beside = torch.from_numpy(np.isin(w.numpy(), np.float32([*centres, 0]))).logical_not()
    error = (tabulated.grad.double() - slopes)[beside].abs()
    assert float((error / (1 + slopes[beside].abs())).max()) < 2e-4


def test_the_nearest_centres_alone_are_not_the_pull():
    """Why there is a table: neighbours at a relative distance of .02 all count at tau = .05."""
    centres = CODEBOOKS["fine"]
    w = torch.full((1,), 0.11, dtype=torch.float64)
    few = centres[np.argsort(np.abs(centres - 0.11))[:5]]
    full, nearest = (
        float(full_pull(w, torch.from_numpy(c).double(), ZERO)) for c in (centres, np.sort(few))
    )
    assert abs(nearest - full) > 0.1 * full


def test_the_mean_is_over_free_weights_and_only_they_are_pulled():
    centres = CODEBOOKS["coarse"]
    pull = Pull(centres, ZERO)
    one, two = torch.randn(4, 5) * 0.1, torch.randn(3) * 0.1
    one.requires_grad_(), two.requires_grad_()
    free = [torch.rand(4, 5) < 0.5, torch.ones(3, dtype=torch.bool)]
    mean = pull.mean([one, two], free)
    both = torch.cat([one[free[0]], two])
    torch.testing.assert_close(mean, full_pull(both, torch.from_numpy(centres), ZERO).mean())
    mean.backward()
    assert (one.grad[~free[0]] == 0).all() and (one.grad[free[0]] != 0).all()


def test_without_free_weights_there_is_no_pull():
    w = torch.ones(3, requires_grad=True)
    mean = Pull([0.0, 0.5], ZERO).mean([w], [torch.zeros(3, dtype=torch.bool)])
    loss = scaled(mean, torch.tensor(2.0), 0.4)
    loss.backward()
    assert float(loss.detach()) == 0 and (w.grad == 0).all()


@given(loss=st.floats(1e-3, 10), regularisation=st.floats(0, 2))
def test_the_scaled_pull_has_its_share_of_the_loss_and_the_direction_of_the_pull(
    loss, regularisation
):
    w = (torch.arange(1, 6) * 0.07).requires_grad_()
    pull = Pull([0.0, 0.125, 0.25], ZERO).mean([w], [torch.ones(5, dtype=torch.bool)])
    (direction,) = torch.autograd.grad(pull, w, retain_graph=True)
    entropy = torch.tensor(loss, requires_grad=True)
    both = scaled(pull, entropy, regularisation)
    both.backward()
    torch.testing.assert_close(float(both.detach()), regularisation * loss, rtol=1e-5, atol=1e-30)
    assert entropy.grad is None
    torch.testing.assert_close(
        w.grad, direction * (regularisation * loss / float(pull.detach())), rtol=1e-4, atol=1e-7
    )
