"""What calibration images do not show: rows hardly met, positions without a gradient."""

import pytest
import torch
from torch import Tensor, nn

from moeash.errors import InputError
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.curvature.measuring import LayerCurvature, measure_curvature
from moeash.methods.feedback.preparing import PRIOR, Settings, prepare
from moeash.networks.writing.borrowing import Borrowed
from tests.marks import few_quick

CHANNELS = 8
RARE = 5e-4


def pictures(n: int, seed: int, rare: float = RARE) -> Tensor:
    """Pictures whose first channel is 0 but for a few points."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, CHANNELS, 8, 8, generator=generator).relu()
    lit = torch.rand(n, 8, 8, generator=generator) < rare
    x[:, 0] = torch.where(lit, torch.rand(n, 8, 8, generator=generator), 0.0)
    return x


def depthwise() -> nn.Sequential:
    """A depthwise convolution whose first channel sleeps, with the gain of a dead BatchNorm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolution = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False)
        norm, linear = nn.BatchNorm2d(CHANNELS), nn.Linear(4 * CHANNELS, 10)
    with torch.no_grad():
        outputs = convolution(pictures(500, seed=1))
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(outputs.mean((0, 2, 3)))
        norm.running_var.copy_(outputs.var((0, 2, 3)))
        convolution.weight[0] *= 0.05
        norm.running_mean[0], norm.running_var[0] = 0.0, 0.0
        norm.weight[0], norm.bias[0] = 3.0, -1.0
        linear.weight *= 8
    parts = (convolution, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), linear)
    return nn.Sequential(*parts).eval()


@torch.no_grad()
def divergence(network: nn.Module, values: dict[str, Tensor]) -> float:
    x = pictures(200, seed=99)
    expected = network(x).double().log_softmax(1)
    with Borrowed(network) as borrowed:
        borrowed.put(values)
        got = network(x).double().log_softmax(1)
    return float((expected.exp() * (expected - got)).sum(1).mean())


@pytest.mark.parametrize("seed", few_quick(range(3, 8), 3, 4))
def test_a_channel_that_rarely_wakes_is_not_woken_up_by_what_absorbs_its_error(seed: int) -> None:
    network = depthwise()
    balancing = Balancing(0.25, finest=None)

    def lost(prior: float) -> float:
        settings = Settings(balancing=balancing, prior=prior)
        prepared = prepare(network, [pictures(100, seed)], settings)
        return divergence(network, compress(prepared, 64, 0.03).values)

    assert lost(PRIOR) < 0.01
    assert lost(prior=0.0) > 10  # as it was: this network does tell


def layer_of(network: nn.Module, x: Tensor, name: str, prior: float) -> LayerCurvature:
    """Curvature with one sketch, so that an image and its energy are one number."""
    layers = measure_curvature(network, [x], sketches=1, prior=prior).layers
    return next(layer for layer in layers if layer.name == name)


def energies(layer: LayerCurvature) -> Tensor:
    """Squared gradients of every row, ``(groups, rows)``, where nothing is absorbed."""
    return layer.sensitivity * layer.gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)


def test_a_channel_without_inputs_counts_as_the_average_one_in_one_image_more() -> None:
    network = nn.Sequential(
        nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS, bias=False),
        nn.Flatten(),
        nn.Linear(288, 5),
    )
    x = pictures(20, seed=0, rare=0.0)
    seen = energies(layer_of(network, x, "0.weight", 0.0)).flatten()
    with_prior = energies(layer_of(network, x, "0.weight", 1.0)).flatten()
    assert seen[0] == 0 and bool((seen[1:] > 0).all())
    torch.testing.assert_close(with_prior, (20 * seen + seen.mean()) / 21, rtol=1e-6, atol=0)


def test_an_embeddings_row_that_no_text_uses_counts_as_one_use_of_the_average_one() -> None:
    network = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(12, 5))
    words = torch.arange(36).reshape(12, 3)  # every word once; the last 14 never
    seen = energies(layer_of(network, words, "0.weight", 0.0)).flatten()
    with_prior = energies(layer_of(network, words, "0.weight", 2.0)).flatten()
    assert bool((seen[36:] == 0).all())
    one_use = 12 * seen[:36].mean()
    torch.testing.assert_close(with_prior, (12 * seen + 2 * one_use) / 14, rtol=1e-6, atol=0)


def test_however_many_the_texts_a_rare_word_is_no_less_than_half_the_average_one() -> None:
    network = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(12, 5))
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 30, (400, 3), generator=generator)
    words[:, 0] = 0
    words[0, 1] = 40  # in one text; the last ones in none
    seen, with_prior = (
        energies(layer_of(network, words, "0.weight", prior)).flatten() for prior in (0.0, 1e-9)
    )
    floor = 0.5 * float(seen.mean())
    torch.testing.assert_close(with_prior, seen.clamp(min=floor), rtol=1e-6, atol=0)
    assert float(seen[40]) < floor < float(seen[0])


@pytest.fixture(autouse=True)
def the_same_weights() -> None:
    """Networks of these tests; of a few in a hundred another row sleeps, too."""
    torch.manual_seed(0)


def sleeper() -> nn.Sequential:
    """One of the first layer's rows never has a gradient."""
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 5))
    with torch.no_grad():
        network[0].bias[2] = -100.0
    return network


def test_a_layer_of_one_group_is_as_images_say() -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    network = sleeper()
    without, layer = (layer_of(network, x, "0.weight", prior) for prior in (0.0, 1.0))
    assert torch.equal(layer.gram, without.gram)
    assert torch.equal(layer.absorbed, without.absorbed)
    assert torch.equal(layer.sensitivity, without.sensitivity)


class Hushed(nn.Module):
    """A row is multiplied by next to nothing: it has gradients, all of them tiny."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 4), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(x) * torch.tensor([1.0, 1.0, 1e-4, 1.0]))


def test_a_row_with_gradients_everywhere_is_never_taken_for_nothing() -> None:
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    network = Hushed()
    seen, with_prior = (
        energies(layer_of(network, x, "layer.weight", prior)).flatten() for prior in (0.0, 1.0)
    )
    floor = 0.05 * float(seen.mean())
    assert float(seen[2]) < 1e-6 * float(seen.mean())
    assert float(with_prior[2]) == pytest.approx(floor, rel=1e-6)
    assert torch.equal(with_prior[[0, 1, 3]], seen[[0, 1, 3]])


@pytest.mark.parametrize(("images", "least"), [(30, 0.4 / 30.4), (5000, 1e-4)])
def test_the_fewer_the_images_the_more_a_row_counts_that_none_of_them_meets(
    images: int, least: float
) -> None:
    x = torch.randn(images, 6, generator=torch.Generator().manual_seed(0))
    settings = Settings(rows="independent", balancing=Balancing(0.0), sketches=1)
    (factor, _) = prepare(sleeper(), [x], settings).factors
    others = factor.sensitivity[0, [0, 1, 3]]
    mean = others.sum() / 4  # the row itself has none
    assert float(factor.sensitivity[0, 2]) == pytest.approx(least * float(mean), rel=1e-4)


@pytest.mark.parametrize("rare", [1.0, RARE])
def test_an_absorber_keeps_the_mean_output_of_a_channel_whose_positions_have_no_gradient(
    rare: float,
) -> None:
    network = depthwise()
    x = pictures(300, seed=2, rare=rare)
    weighted, layer = (layer_of(network, x, "0.weight", prior) for prior in (0.0, 1.0))
    mean = nn.functional.unfold(x[:, :1], 3, padding=1).double().mean((0, 2))

    def distance(absorbed: Tensor) -> float:
        return float((absorbed[0] - mean).norm())

    if rare == 1.0:  # where half of the positions have a gradient, what it says stands
        assert distance(layer.absorbed) == pytest.approx(distance(weighted.absorbed), rel=0.05)
    else:
        assert distance(layer.absorbed) < 0.5 * distance(weighted.absorbed)


def test_what_no_gradient_reaches_stays_without_curvature() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].bias.fill_(-100.0)
    layer = layer_of(network, torch.rand(5, 3), "0.weight", 1.0)
    assert not layer.gram.any() and not layer.sensitivity.any() and not layer.absorbed.any()


def test_a_negative_prior_is_refused() -> None:
    with pytest.raises(InputError, match="prior of -1"):
        measure_curvature(nn.Linear(2, 2), [torch.zeros(1, 2)], prior=-1)
