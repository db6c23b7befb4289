import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, swin_t

from moeash.tracing.uses import tiles, watch_uses, why_unused


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def watch(network, *inputs):
    """Return what the network returns, and its uses as (name, first row, inputs, outputs)."""
    seen = []
    with torch.no_grad(), watch_uses(network, lambda use, x, y: seen.append((use, x, y))):
        result = network(*inputs)
    return result, seen


def vit():
    torch.manual_seed(0)
    return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5).eval()


def test_a_vision_transformer_is_seen_to_its_last_projection_in_execution_order():
    network, x = vit(), random(3, 3, 32, 32)
    with torch.no_grad():
        expected = network(x)
    result, seen = watch(network, x)
    torch.testing.assert_close(result, expected)
    block = "encoder.layers.encoder_layer_{}."
    order = ["conv_proj.weight"]
    for i in range(2):
        order += 3 * [block.format(i) + "self_attention.in_proj_weight"]
        order += [block.format(i) + "self_attention.out_proj.weight"]
        order += [block.format(i) + f"mlp.{j}.weight" for j in (0, 3)]
    assert [use.name for use, _, _ in seen] == [*order, "heads.head.weight"]
    assert [use.first_row for use, _, _ in seen][1:5] == [0, 32, 64, 0]
    assert all(x.shape[0] == 3 for _, x, _ in seen)


@pytest.mark.slow
def test_a_transformer_that_calls_linear_with_its_modules_weights_is_seen():
    torch.manual_seed(0)
    network = swin_t(num_classes=5).eval()
    _, seen = watch(network, random(1, 3, 64, 64))
    weights = {n for n, p in network.named_parameters() if p.ndim >= 2}
    unseen = weights - {use.name for use, _, _ in seen}
    assert unseen and all(n.endswith("relative_position_bias_table") for n in unseen)


ATTENTION = {
    "self": ({}, (8, 8, 8), {}),
    "batch first": ({"batch_first": True}, (8, 8, 8), {}),
    "without bias": ({"bias": False}, (8, 8, 8), {}),
    "added keys": ({"add_bias_kv": True, "add_zero_attn": True}, (8, 8, 8), {}),
    "cross": ({"batch_first": True}, (8, 8, 8), {"cross": True}),
    "other widths": ({"kdim": 6, "vdim": 4}, (8, 6, 4), {"cross": True}),
    "masked": ({}, (8, 8, 8), {"masked": True}),
    "one head's weights": ({}, (8, 8, 8), {"need_weights": True, "average_attn_weights": False}),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_taken_apart_computes_what_it_computed(name):
    options, (e, k, v), call = ATTENTION[name]
    torch.manual_seed(1)
    attention = nn.MultiheadAttention(e, 4, **options).eval()
    if attention.in_proj_bias is not None:
        nn.init.normal_(attention.in_proj_bias)
    first = attention.batch_first

    def tokens(length, width, seed):
        x = random(3, length, width, seed=seed)
        return x if first else x.transpose(0, 1)

    call = dict(call)
    query = tokens(5, e, 0)
    key, value = (tokens(7, k, 1), tokens(7, v, 2)) if call.pop("cross", False) else (query, query)
    if call.pop("masked", False):
        call["attn_mask"] = torch.ones(5, 5, dtype=torch.bool).triu(1)
        call["key_padding_mask"] = torch.tensor([[False] * 5, [False] * 5, [False] * 4 + [True]])
    with torch.no_grad():
        expected, weighed = attention(query, key, value, **call)
        seen = []
        with watch_uses(attention, lambda use, x, y: seen.append((use, x, y))):
            got, also = attention(query, key, value, **call)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(also, weighed, atol=1e-6, rtol=1e-5)
    assert got.shape == expected.shape
    widths = [3] if attention.in_proj_weight is not None else [1, 1, 1]
    assert len({use.name for use, _, _ in seen[:3]}) == len(widths)
    assert seen[3][0].name == "out_proj.weight"
    for use, x, y in seen:
        assert x.shape[0] == y.shape[0] == 3  # images first, whatever the module's order
        part = attention.get_parameter(use.name)[use.rows.start : use.rows.stop]
        assert torch.equal(use.map.weight, part)
        bias = "out_proj.bias" if use.name == "out_proj.weight" else "in_proj_bias"
        bias = "" if use.name in ("k_proj_weight", "v_proj_weight") else bias  # rows of another's
        assert use.bias == (None if "bias" in options else bias)


def test_an_encoder_layers_fast_path_is_not_taken():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = random(2, 3, 8)
    with torch.no_grad():
        expected = network(x)
    result, seen = watch(network, x)
    torch.testing.assert_close(result, expected)
    assert len(seen) == 2 * (3 + 1 + 2)


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(random(6, 4))
        self.bias = nn.Parameter(random(6))

    def forward(self, x):
        return F.linear(x, self.weight[2:4]), F.linear(x, self.weight[4:], self.bias[4:])


def test_ranges_of_rows_are_recognised_with_their_bias():
    network = Parts()
    _, seen = watch(network, random(3, 4))
    assert [(use.name, use.rows, use.bias) for use, _, _ in seen] == [
        ("weight", range(2, 4), None),
        ("weight", range(4, 6), "bias"),
    ]


def test_weights_that_are_computed_or_belong_to_nobody_are_not_told():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Identity())
    network[1].forward = lambda x: F.linear(x, torch.ones(2, 3))
    _, seen = watch(network, random(2, 4))
    assert seen == []


def test_row_ranges_must_be_all_rows_once_and_equal():
    assert tiles([range(6)], 6) is None
    assert tiles([range(2), range(2, 4), range(4, 6)], 6) is None
    assert "only some" in tiles([range(4)], 6)
    assert "only some" in tiles([range(2, 6)], 6)
    assert "overlapping" in tiles([range(4), range(2, 6)], 6)
    assert "overlapping" in tiles([range(2), range(6)], 6)
    assert "different sizes" in tiles([range(2), range(2, 6)], 6)


def test_every_parameter_nobody_used_has_a_reason():
    network = vit()
    assert why_unused(network, ["class_token", "heads.head.weight"]) == {
        "class_token": "VisionTransformer does not multiply with it as a layer does",
        "heads.head.weight": "its layer was not called by the calibration run",
    }
