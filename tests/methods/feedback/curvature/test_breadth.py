"""Curvature of what is no plain layer, against autograd: attention, embeddings, the transposed."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from moeash.errors import InputError
from moeash.methods.feedback.curvature.measuring import measure_curvature

SKETCHES = 2


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_definition(network, x, name, groups, seed=9):
    """Means over images of the Gram matrices of weight gradients and of their rows' energies."""
    weight = network.get_parameter(name)
    generator = torch.Generator().manual_seed(seed)
    logits = network(x)
    p = logits.detach().softmax(1)
    rows = weight.shape[0] // groups
    columns = weight[0].numel()
    gram = torch.zeros(groups, columns, columns, dtype=torch.float64)
    energy = torch.zeros(groups, rows, dtype=torch.float64)
    for _ in range(SKETCHES):
        signs = torch.randint(0, 2, p.shape, generator=generator).float() * 2 - 1
        root = p.sqrt() * signs
        sketch = root - p * root.sum(1, keepdim=True)
        for i in range(len(x)):
            (g,) = torch.autograd.grad(logits[i] @ sketch[i], weight, retain_graph=True)
            g = g.reshape(groups, rows, columns).double()
            gram += g.transpose(1, 2) @ g
            energy += g.square().sum(2)
    n = len(x) * SKETCHES
    return gram / n / rows, energy / n


def check(network, x, name, groups=1, *, exact_rows=False):
    fixed = [n for n, p in network.named_parameters() if p.ndim == 1]
    measured = measure_curvature(
        network, [x], sketches=SKETCHES, temperature=1.0, fixed=fixed, seed=9
    )
    (layer,) = [layer for layer in measured.layers if layer.name == name]
    gram, energy = by_definition(network, x, name, groups)
    torch.testing.assert_close(layer.gram, gram, rtol=1e-3, atol=1e-9)
    if exact_rows:
        trace = layer.gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
        torch.testing.assert_close(layer.sensitivity * trace, energy, rtol=1e-3, atol=1e-9)
    ones = torch.ones(groups).double()  # float32 sums, in an order that goes by the threads
    torch.testing.assert_close(layer.sensitivity.mean(1), ones, rtol=1e-6, atol=1e-6)
    assert float(gram.abs().max()) > 1e-6
    assert layer.weight.flatten().equal(network.get_parameter(name).detach().flatten())
    return measured


def vit():
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5).eval()
    nn.init.normal_(network.heads.head.weight, std=0.3)  # torchvision begins with zeros
    return network


def test_attention_has_a_curvature_for_queries_keys_and_values():
    network, x = vit(), random(4, 3, 32, 32)
    first, second = (f"encoder.layers.encoder_layer_{i}.self_attention." for i in range(2))
    measured = check(network, x, first + "in_proj_weight", groups=3)
    check(network, x, second + "out_proj.weight")
    assert measured.left_out == {
        "class_token": "VisionTransformer does not multiply with it as a layer does",
        "encoder.pos_embedding": "Encoder does not multiply with it as a layer does",
    }
    left = network.class_token.numel() + network.encoder.pos_embedding.numel()
    total = sum(p.numel() for p in network.parameters() if p.ndim >= 2)
    assert measured.n_weights == total - left


def test_attentions_bias_takes_up_constant_changes_of_all_three():
    network, x = vit(), random(4, 3, 32, 32)
    absorbers = {layer.name: layer.absorber for layer in measure_curvature(network, [x]).layers}
    block = "encoder.layers.encoder_layer_1.self_attention."
    assert absorbers[block + "in_proj_weight"] == block + "in_proj_bias"
    assert absorbers[block + "out_proj.weight"] == block + "out_proj.bias"


class Reader(nn.Module):
    """Two inputs of different widths and lengths meet in one attention."""

    def __init__(self, kdim=None, vdim=None):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=vdim)
        self.head = nn.Linear(8, 3)
        nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, x):
        x = x.transpose(0, 1)  # the sequence first
        width = self.attention.kdim, self.attention.vdim
        y, _ = self.attention(x[:4], x[2:, :, : width[0]], x[2:, :, : width[1]])
        return self.head(y.mean(0))


def test_attention_between_sequences_of_different_lengths_is_measured_image_by_image():
    check(Reader().eval(), random(5, 9, 8), "attention.in_proj_weight", groups=3)


def test_projections_of_other_widths_are_three_weights_without_a_bias_of_their_own():
    network = Reader(kdim=6, vdim=4).eval()
    for name in "qkv":
        check(network, random(5, 9, 8), f"attention.{name}_proj_weight")
    measured = measure_curvature(network, [random(5, 9, 8)])
    assert {layer.absorber for layer in measured.layers[:3]} == {None}
    assert measured.left_out == {}


class Words(nn.Module):
    """An embedding, whose weight may be the head's too."""

    def __init__(self, tied=False):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, words):
        return self.head(torch.tanh(self.mix(self.table(words))).mean(1))


def words(n=6):
    return torch.randint(0, 9, (n, 7), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("frozen", [False, True])
def test_an_embedding_has_a_curvature_and_words_never_seen_have_none(frozen):
    network = Words().requires_grad_(not frozen)
    if not frozen:
        check(network, words(), "table.weight", exact_rows=True)
    layer = measure_curvature(network, [words()]).layers[0]
    assert layer.name == "table.weight"
    assert (layer.sensitivity[0, :9] > 0).all() and (layer.sensitivity[0, 9:] == 0).all()
    assert layer.absorber is None
    assert [p.requires_grad for p in network.parameters()] == [not frozen] * 4


def test_a_weight_that_is_embedding_and_head_adds_both_uses():
    tied = Words(tied=True)
    layer = measure_curvature(tied, [words()]).layers[0]
    assert layer.name == "table.weight"
    assert layer.positions == 6 * 4 * 7 + 6  # per sketch and word, and per image
    assert (layer.sensitivity > 0).all()


class Up(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.up(x))).mean((2, 3)))


def test_a_transposed_convolution_has_a_curvature_per_group_and_moves_no_batchnorm():
    network = Up().eval()
    measured = check(network, random(3, 4, 5, 5), "up.weight", groups=2, exact_rows=True)
    (layer,) = [layer for layer in measured.layers if layer.name == "up.weight"]
    assert (layer.absorber, layer.norm) == (None, None)


@pytest.mark.parametrize("network", [Words(), Up().eval()], ids=["embedding", "transposed"])
def test_layers_whose_rows_are_inputs_have_an_inputs_curvature_too(network):
    x = words() if isinstance(network, Words) else random(3, 4, 5, 5)
    for layer in measure_curvature(network, [x], kind="inputs", sketches=3).layers:
        eigenvalues = torch.linalg.eigvalsh(layer.gram)
        assert float(eigenvalues.min()) > -1e-9 and float(eigenvalues.max()) > 0


class InPlace(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 4, 3)
        self.act = nn.ReLU(inplace=inplace)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def test_an_activation_in_place_does_not_hide_the_layers_own_output():
    x = random(4, 2, 6, 6)
    check(InPlace(inplace=True), x, "conv.weight")
    check(InPlace(inplace=False), x, "conv.weight")


class Windows(nn.Module):
    """Folds windows into the first dimension, as Swin does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        y = torch.tanh(self.mix(x.reshape(-1, 2, 4)))
        return self.head(y.reshape(len(x), -1, 4).mean(1))


def test_windows_of_one_image_act_together():
    check(Windows(), random(5, 6, 4), "mix.weight")


class Half(nn.Module):
    """Reads half of one weight, and computes with another under no_grad."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Linear(4, 6, bias=False)
        self.blind = nn.Linear(4, 4)
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        with torch.no_grad():
            x = self.blind(x)
        return self.head(nn.functional.linear(x, self.wide.weight[:3]))


def test_what_cannot_be_measured_says_why():
    assert measure_curvature(Half(), [random(3, 4)]).left_out == {
        "wide.weight": "the calibration run uses only some of its rows",
        "blind.weight": "the network computes with it without gradients",
    }


def test_a_network_without_gradients_is_refused():
    class Blind(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(InputError, match="no gradient"):
        measure_curvature(Blind(3, 2), [random(3, 3)])


def test_passes_of_any_size_give_the_same_curvature(monkeypatch):
    network, x = vit(), random(6, 3, 32, 32)
    whole = measure_curvature(network, [x], sketches=1)
    monkeypatch.setattr("moeash.tracing.passes.BACKWARD_ELEMENTS", 1)
    sizes = []
    network.conv_proj.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    pieces = measure_curvature(network, [x], sketches=1)
    assert sizes == [1] * 7  # one to see how large images are
    assert pieces.images == 6
    for one, other in zip(whole.layers, pieces.layers, strict=True):
        noise = 1e-5 * float(one.gram.abs().max())
        torch.testing.assert_close(one.gram, other.gram, rtol=1e-3, atol=noise)
