"""Noise on weights: its moments, its gradients, and layers of every kind."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from moeash.methods.pwfn.noise import STRENGTH, draw, raising
from moeash.methods.pwfn.sigmas import LEAST, MOST


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def parameters_of(module):
    return dict(module.named_parameters())


def deviations_of(module, value=0.01):
    return {n: torch.full_like(p, value) for n, p in parameters_of(module).items()}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.scores = nn.Linear(6, 11, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, x):
        return self.scores(self.words(x))


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), torch.randn(3, 6)),
    "conv": (lambda: nn.Conv2d(4, 6, 3), torch.randn(2, 4, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), torch.randn(2, 4, 8, 8)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, stride=2), torch.randn(2, 4, 8, 8)),
    "dilated": (
        lambda: nn.Conv2d(4, 6, 3, dilation=2, padding=2, padding_mode="reflect"),
        torch.randn(2, 4, 8, 8),
    ),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, dilation=2), torch.randn(2, 4, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), torch.randn(2, 4, 5, 5)),
    "embedding": (lambda: nn.Embedding(11, 6), torch.randint(11, (3, 5))),
    "attention": (Attention, torch.randn(2, 5, 8)),
    "tied": (Tied, torch.randint(11, (3, 5))),
    "norm": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6)),
        torch.randn(2, 4, 8, 8),
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_without_noise_every_layer_is_itself_bit_for_bit(kind):
    torch.manual_seed(0)
    build, x = LAYERS[kind]
    module = build().eval()
    drawn = draw(parameters_of(module), deviations_of(module), None)
    assert torch.equal(functional_call(module, dict(drawn.weights), (x,)), module(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_runs_with_its_drawn_weights_and_has_gradients(kind):
    torch.manual_seed(0)
    build, x = LAYERS[kind]
    module = build().eval()
    means = parameters_of(module)
    sigmas = {n: s.requires_grad_() for n, s in deviations_of(module, 0.1).items()}
    drawn = draw(means, sigmas, seeded())
    out = functional_call(module, dict(drawn.weights), (x,))
    out.square().sum().backward()
    other = build().eval()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            parameter.copy_(drawn.weights[name])
    torch.testing.assert_close(out.detach(), other(x).detach())
    assert not torch.allclose(out.detach(), module(x).detach(), atol=1e-3)
    for name, mean in means.items():
        torch.testing.assert_close(sigmas[name].grad, mean.grad * drawn.noise[name])


def test_draws_have_the_mean_and_the_deviation_of_their_weights():
    means = {"w": torch.tensor([0.5, -0.2]).repeat(200_000, 1)}
    sigmas = {"w": torch.tensor([0.05, 0.001]).repeat(200_000, 1)}
    w = draw(means, sigmas, seeded()).weights["w"].double()
    for column, (mean, sigma) in enumerate([(0.5, 0.05), (-0.2, 0.001)]):
        assert float(w[:, column].mean()) == pytest.approx(mean, abs=5 * sigma / 200_000**0.5)
        assert float(w[:, column].std()) == pytest.approx(sigma, rel=0.01)


def test_a_deviation_below_the_least_counts_as_the_least():
    drawn = draw({"w": torch.zeros(50)}, {"w": torch.zeros(50)}, seeded())
    torch.testing.assert_close(drawn.weights["w"], drawn.noise["w"] * LEAST)
    assert drawn.weights["w"].abs().max() > 0


def test_draws_follow_the_seed_and_nothing_else():
    means, sigmas = {"w": torch.zeros(50)}, {"w": torch.ones(50)}
    one, two, other = (draw(means, sigmas, seeded(s)).weights["w"] for s in (1, 1, 2))
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_the_gradient_on_deviations_is_the_published_one_where_weights_are_free():
    sigma = torch.tensor([0.0, 0.02, 0.049, 0.05, 0.3, 0.01], requires_grad=True)
    eps = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, -1.0])
    free = torch.tensor([True, True, True, True, True, False])
    raising({"w": sigma}, {"w": eps}, {"w": free}).backward()
    published = -STRENGTH * (MOST - sigma.detach()).relu() * eps.abs() * free
    torch.testing.assert_close(sigma.grad, published)
    assert sigma.grad[-1] == 0 and (sigma.grad[:3] < 0).all()


def test_the_loss_that_raises_is_a_sum_over_parameters():
    sigmas = {"a": torch.full((3,), 0.03), "b": torch.zeros(2, 2)}
    noise = {"a": torch.ones(3), "b": torch.full((2, 2), -2.0)}
    free = {name: torch.ones_like(s, dtype=torch.bool) for name, s in sigmas.items()}
    want = STRENGTH * (3 * 0.5 * 0.02**2 + 4 * 0.5 * 0.05**2 * 2)
    assert float(raising(sigmas, noise, free)) == pytest.approx(want, rel=1e-5)
