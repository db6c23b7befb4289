from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from moeash.errors import DataError, EvaluationError, InputError
from moeash.methods.gpfq.layers import (
    assign_gpfq,
    finite_alphabet,
    quantisable,
    quantise_gpfq,
    symmetric_alphabet,
)
from moeash.tracing.patches import LinearMap, patches

TERNARY_SMALL = finite_alphabet(torch.tensor([-0.2, 0.0, 0.2], dtype=torch.float64))
TERNARY = finite_alphabet(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))


def path(weight, analog, quantised, alphabet):
    """The recursion as the paper writes it, one neuron at a time: returns indices and all u_t."""
    indices = torch.empty(weight.shape, dtype=torch.int64)
    states = []
    for row in range(weight.shape[0]):
        u = torch.zeros(analog.shape[0], dtype=torch.float64)
        for t in range(weight.shape[1]):
            x, xt = analog[:, t], quantised[:, t]
            energy = xt @ xt
            moved = u + weight[row, t] * x
            v = (xt @ moved) / energy if energy > 0 else torch.zeros((), dtype=torch.float64)
            indices[row, t] = alphabet.quantise(v.reshape(1))[0]
            u = moved - alphabet.entries[indices[row, t]] * xt
            states.append((moved, xt, u))
    return indices, states


def gpfq(weight, analog, quantised, alphabet, **kwargs):
    gram, cross = quantised.T @ quantised, quantised.T @ analog
    return assign_gpfq(weight[None], gram[None], cross[None], alphabet, **kwargs)[0]


def problem(seed, m=50, d=30, rows=6, noise=0.1):
    generator = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=generator, dtype=torch.float64)
    weight, analog = random(rows, d) * 0.6, random(m, d)
    return weight, analog, analog + noise * random(m, d)


@pytest.mark.parametrize("variant", ["nearest", "l0", "l1"])
@pytest.mark.parametrize("seed", range(5))
def test_the_gram_form_equals_the_recursion_of_the_paper(seed, variant):
    weight, x, xt = problem(seed)
    alphabet = symmetric_alphabet(weight[None], levels=4, variant=variant)
    assert torch.equal(gpfq(weight, x, xt, alphabet), path(weight, x, xt, alphabet)[0])


@pytest.mark.parametrize("block", [1, 8, 64])
def test_blocks_change_nothing(block):
    weight, x, xt = problem(1)
    assert torch.equal(gpfq(weight, x, xt, TERNARY, block=block), gpfq(weight, x, xt, TERNARY))


def test_orthogonal_columns_give_nearest_rounding():
    weight, x, _ = problem(2)
    q = torch.linalg.qr(x).Q * 3
    assert torch.equal(gpfq(weight, q, q, TERNARY), TERNARY.quantise(weight))


def test_rotating_or_scaling_the_samples_changes_nothing():
    weight, x, xt = problem(3)
    rotation = torch.linalg.qr(problem(4, d=50)[1]).Q
    expected = gpfq(weight, x, xt, TERNARY)
    assert torch.equal(gpfq(weight, rotation @ x, rotation @ xt, TERNARY), expected)
    assert torch.equal(gpfq(weight, 4 * x, 4 * xt, TERNARY), expected)


@pytest.mark.parametrize(
    "weights, symbols",
    [([0.3, 0.3, 0.3, 0.3], [0, 1, 0, 0]), ([0.4, -0.2, 0.7, 0.4], [0, 0, 1, 0])],
)
def test_equal_columns_are_first_order_sigma_delta(weights, symbols):
    weight, ones = torch.tensor([weights], dtype=torch.float64), torch.ones(1, 4).double()
    assert (gpfq(weight, ones, ones, TERNARY) - 1).tolist() == [symbols]


def test_every_symbol_is_the_best_single_step_and_the_path_ends_at_the_output_error():
    weight, x, xt = problem(5)
    indices, states = path(weight, x, xt, TERNARY)
    for moved, column, u in states:
        others = [float((moved - p * column).norm()) for p in TERNARY.entries]
        assert float(u.norm()) <= min(others) + 1e-12
    end = torch.stack([u for _, _, u in states[29::30]], 1)
    error = x @ weight.T - xt @ TERNARY.entries[indices].T
    torch.testing.assert_close(end, error)


def test_weights_of_the_alphabet_stay():
    _, x, _ = problem(6)
    weight = torch.randint(-1, 2, (6, 30), generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(gpfq(weight, x, x, TERNARY) - 1, weight.long())


def test_dead_columns_get_zero_or_else_the_symbol_of_the_weight():
    weight, x, _ = problem(7, d=3)
    weight[:, 1] = 5.0
    x[:, 1] = 0
    assert (gpfq(weight, x, x, TERNARY)[:, 1] == 1).all()
    even = finite_alphabet(torch.tensor([-1.0, -0.3, 0.3, 1.0], dtype=torch.float64))
    assert (gpfq(weight, x, x, even)[:, 1] == 3).all()


def test_overparameterised_layers_lose_far_less_output_than_nearest_rounding():
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(20, 256, generator=generator, dtype=torch.float64) * 2 - 1
    errors = []
    for m in (16, 64, 256):
        x = torch.randn(m, 256, generator=generator, dtype=torch.float64)
        q = TERNARY.entries[gpfq(weight, x, x, TERNARY)]
        errors.append(float((x @ (weight - q).T).norm() / (x @ weight.T).norm()))
        nearest = TERNARY.entries[TERNARY.quantise(weight)]
        assert errors[-1] < float((x @ (weight - nearest).T).norm() / (x @ weight.T).norm())
        assert float((weight - q).norm()) > float((weight - nearest).norm())
    assert errors == pytest.approx([0.127, 0.244, 0.396], rel=0.1)


def test_alphabets_have_the_documented_symbols():
    weight = torch.tensor([[[1.0, -3.0], [0.5, 1.0]]])  # maxima 3 and 1: radius 2
    plain = symmetric_alphabet(weight, levels=2, scale=1.5)
    assert plain.entries.tolist() == [-3.0, -1.5, 0.0, 1.5, 3.0]
    assert plain.quantise(torch.tensor([-9.0, -0.75, -0.7, 0.75, 2.3])).tolist() == [0, 1, 2, 3, 4]
    hard = symmetric_alphabet(weight, levels=2, scale=1.5, variant="l0", threshold=1.0)
    assert hard.entries.tolist() == [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]
    assert hard.quantise(torch.tensor([-1.0, 1.01, 1.6, -7.0])).tolist() == [3, 4, 5, 0]
    soft = symmetric_alphabet(weight, levels=2, scale=1.5, variant="l1", threshold=1.0)
    assert soft.entries.tolist() == plain.entries.tolist()
    assert soft.quantise(torch.tensor([1.7, 1.8, -4.0])).tolist() == [2, 3, 0]


def test_stochastic_rounding_keeps_the_mean_and_clips():
    weight = torch.ones(1, 1, 4)
    generator = torch.Generator().manual_seed(0)
    alphabet = symmetric_alphabet(
        weight, levels=4, scale=1.0, variant="stochastic", generator=generator
    )
    drawn = alphabet.entries[alphabet.quantise(torch.full((20000,), 0.3))]
    assert set(drawn.unique().tolist()) == {0.25, 0.5}
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.005)
    assert alphabet.entries[alphabet.quantise(torch.tensor([-5.0]))].item() == -1.0


class Net(nn.Module):
    """Registered out of order, one layer used twice, grouped and strided convolutions."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(8, 3)
        self.unused = nn.Linear(2, 2)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.first = nn.Conv2d(2, 8, 3, stride=2)

    def forward(self, x):
        x = torch.relu(self.first(x))
        x = torch.relu(self.second(torch.relu(self.second(x))))
        return self.head(x.mean((2, 3)))


def test_a_network_is_quantised_in_execution_order_and_left_alone():
    network = Net().eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    x = torch.randn(20, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    layers = quantise_gpfq(network, list(x.split(8)), partial(symmetric_alphabet, levels=8))
    assert [layer.name for layer in layers] == ["first.weight", "second.weight", "head.weight"]
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert layers[1].indices.shape == (8, 2, 3, 3)
    # The first layer, by definition: its inputs are those of the float network.
    rows = patches(LinearMap.of(network.first.weight, 2, stride=2), x).double().flatten(0, 2)
    weight = network.first.weight.detach().flatten(1).double()
    alphabet = symmetric_alphabet(weight[None], levels=8)
    expected, _ = path(weight, rows, rows, alphabet)
    assert torch.equal(layers[0].indices.flatten(1), expected)
    shift = (weight - layers[0].entries[expected].double()) @ rows.mean(0)
    torch.testing.assert_close(layers[0].bias_shift, shift)


def test_later_layers_aim_at_the_float_outputs_through_quantised_inputs():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(30, 40, bias=False), nn.Linear(40, 5, bias=False)).eval()
    x = torch.randn(200, 30)
    make = partial(symmetric_alphabet, levels=1)
    first, second = quantise_gpfq(network, [x], make)
    with torch.no_grad():
        hidden = network[0](x).double()
        coarse = (x @ first.entries[first.indices].T).double()
    weight = network[1].weight.detach().double()
    alphabet = symmetric_alphabet(weight[None], levels=1)
    assert torch.equal(second.indices, path(weight, hidden, coarse, alphabet)[0])
    assert not torch.equal(second.indices, path(weight, hidden, hidden, alphabet)[0])


def test_a_transformer_is_quantised_with_its_attention():
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight, std=0.3)  # torchvision begins with zeros
    x = torch.randn(30, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    layers = quantise_gpfq(network, x.split(12), partial(symmetric_alphabet, levels=8))
    names, reasons = quantisable(network, [x])
    assert [layer.name for layer in layers] == list(names)
    assert set(reasons) == {"class_token", "encoder.pos_embedding"}
    # The first attention's keys, by definition: rows 32 to 63 over what the block's norm gives.
    block = network.encoder.layers.encoder_layer_0
    taps = []
    block.self_attention.register_forward_pre_hook(lambda module, args: taps.append(args[0]))
    with torch.no_grad():
        network(x)
        network.conv_proj.weight.copy_(layers[0].entries[layers[0].indices])
        network(x)
    analog, quantised = (tap.flatten(0, 1).double() for tap in taps)
    weight = block.self_attention.in_proj_weight.detach().double()
    alphabet = symmetric_alphabet(weight.reshape(3, 32, 32), levels=8)
    expected = gpfq(weight[32:64], analog, quantised, alphabet)
    assert layers[1].name.endswith("in_proj_weight")
    assert (layers[1].indices[32:64] == expected).double().mean() > 0.999


def test_what_gpfq_cannot_quantise_says_why():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    names, reasons = quantisable(network, [torch.zeros(2, 3, dtype=torch.int64)])
    assert list(names) == ["1.weight"]
    assert reasons == {"0.weight": "GPFQ's neurons are outputs, its rows are inputs"}


def test_grouped_convolutions_are_quantised_group_by_group():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, groups=2, padding=1, dilation=2, padding_mode="circular")
    x = torch.randn(8, 4, 7, 7)
    (whole,) = quantise_gpfq(conv, [x], lambda weight: TERNARY_SMALL)
    for group in range(2):
        part = nn.Conv2d(2, 3, 3, padding=1, dilation=2, padding_mode="circular")
        part.weight.data.copy_(conv.weight[3 * group : 3 * group + 3])
        (alone,) = quantise_gpfq(part, [x[:, 2 * group : 2 * group + 2]], lambda w: TERNARY_SMALL)
        assert torch.equal(alone.indices, whole.indices[3 * group : 3 * group + 3])


def test_one_global_codebook_serves_all_layers_and_beats_nearest_entries():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 5)).eval()
    x = torch.randn(200, 8) @ torch.randn(8, 60)
    entries = torch.linspace(-0.16, 0.16, 9, dtype=torch.float64)
    alphabet = finite_alphabet(entries)
    layers = quantise_gpfq(network, [x], lambda weight: alphabet)
    assert [layer.entries.tolist() for layer in layers] == [entries.float().tolist()] * 2
    errors = []
    for values in (
        {layer.name: layer.entries[layer.indices] for layer in layers},
        {n: entries[alphabet.quantise(w.double())] for n, w in network.named_parameters()},
    ):
        twin = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 5)).eval()
        biases = {n: w for n, w in network.state_dict().items() if "bias" in n}
        twin.load_state_dict(values | biases)
        with torch.no_grad():
            errors.append(float((twin(x) - network(x)).square().mean()))
    assert errors[0] < 0.3 * errors[1]


class Stubborn(Net):
    """Takes anything that goes wrong for an error of its own, and tries again."""

    def forward(self, x):
        try:
            return super().forward(x)
        except Exception:
            return super().forward(2 * x)


def test_a_network_that_catches_exceptions_is_quantised_as_one_that_does_not():
    x = torch.randn(20, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    make = partial(symmetric_alphabet, levels=4)
    plain, stubborn = (quantise_gpfq(network.eval(), [x], make) for network in (Net(), Stubborn()))
    assert [layer.name for layer in plain] == [layer.name for layer in stubborn]
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(plain, stubborn, strict=True))


def test_only_layers_asked_for_are_quantised_and_the_others_stay_float():
    network = Net().eval()
    x = torch.randn(20, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    make = partial(symmetric_alphabet, levels=1)
    (alone,) = quantise_gpfq(network, [x], make, shared=["second.weight"])
    assert alone.name == "second.weight"
    _, behind_another, _ = quantise_gpfq(network, [x], make)
    assert not torch.equal(alone.indices, behind_another.indices)


def test_bad_calls_are_refused_with_the_reason():
    weight = torch.ones(1, 2, 3)
    with pytest.raises(DataError, match="at least one batch"):
        quantise_gpfq(Net(), [], partial(symmetric_alphabet, levels=1))
    with pytest.raises(InputError, match="0 levels"):
        symmetric_alphabet(weight, levels=0)
    with pytest.raises(InputError, match="not one of nearest, l0, l1, stochastic"):
        symmetric_alphabet(weight, levels=1, variant="l2")
    with pytest.raises(InputError, match="needs a generator"):
        symmetric_alphabet(weight, levels=1, variant="stochastic")
    with pytest.raises(InputError, match="the top symbol"):
        symmetric_alphabet(weight, levels=1, variant="l0", threshold=2.0)


def scaled(weights, inputs, huge_row=1.0, dead=False):
    """Return two layers with weights and inputs of such scales, and inputs for them."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * weights)
            layer.bias.zero_()
        network[0].weight[0] *= huge_row
    x = torch.randn(40, 12, generator=generator) * inputs
    return network, torch.zeros_like(x) if dead else x


EXTREME = {
    "small weights": (1e-30, 1.0),
    "large weights": (1e15, 1.0),
    "small inputs": (1.0, 1e-30),
    "large inputs": (1.0, 1e30),
    "one huge row": (1.0, 1.0, 1e30),
    "one tiny row": (1.0, 1.0, 1e-30),
    "no weights": (0.0, 1.0),
    "no inputs": (1.0, 1.0, 1.0, True),
}


@pytest.mark.parametrize("variant", ["nearest", "stochastic"])
@pytest.mark.parametrize("scales", EXTREME.values(), ids=EXTREME)
def test_any_finite_scale_gives_symbols_of_the_alphabet(scales, variant):
    network, x = scaled(*scales)
    make = partial(
        symmetric_alphabet, levels=8, variant=variant, generator=torch.Generator().manual_seed(0)
    )
    for layer in quantise_gpfq(network, [x], make):
        assert layer.indices.min() >= 0 and layer.indices.max() < len(layer.entries)
        assert torch.isfinite(layer.entries).all()


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e38])
def test_inputs_that_are_not_finite_are_an_error_that_names_the_layer(value):
    network, x = scaled(1e3, 1.0)
    x[3, 5] = value
    with pytest.raises(EvaluationError, match=r"inputs of [02]\.weight are not finite"):
        quantise_gpfq(network, [x], partial(symmetric_alphabet, levels=8))
