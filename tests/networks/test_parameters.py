import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from moeash.core.codebook import FLOAT_NAMES
from moeash.errors import InputError, NonFiniteWeightError
from moeash.networks.parameters import describe, network_fingerprint, read_state


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def roles(state):
    return {p.name: p.role for p in state}


def shared(state):
    return [p.name for p in state if p.role == "shared"]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.middle = nn.Linear(4, 4)


def test_the_default_shares_what_has_two_dimensions_and_keeps_the_rest():
    state = read_state(network())
    assert [p.name for p in state] == list(network().state_dict())
    assert shared(state) == ["0.weight", "3.weight"]
    assert {p.role for p in state if p.name.startswith("1.")} == {"kept"}


def test_all_shares_vectors_but_never_buffers():
    state = read_state(network(), all=True)
    assert shared(state) == ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert roles(state)["1.running_mean"] == "kept"


@pytest.mark.parametrize(
    "patterns, names",
    [
        ({"include": ["3.*"]}, ["3.weight"]),
        ({"include": "3.weight"}, ["3.weight"]),
        ({"exclude": "0.*"}, ["3.weight"]),
        ({"exclude": ["0.*"]}, ["3.weight"]),
        ({"include": ["*.weight"], "exclude": ["0.weight"], "all": True}, ["1.weight", "3.weight"]),
        ({"exclude": ["*.bias"]}, ["0.weight", "3.weight"]),
    ],
)
def test_patterns_narrow_what_is_shared(patterns, names):
    assert shared(read_state(network(), **patterns)) == names


@pytest.mark.parametrize(
    "patterns, message",
    [
        ({"include": ["3.wieght"]}, "matches no parameter; nearest: '3.weight'"),
        ({"exclude": ["4.*"]}, r"exclude pattern '4.\*' matches no parameter"),
        ({"include": ["3.bias"]}, "not eligible for sharing, such as '3.bias'; network.share_all"),
        ({"include": []}, "no parameter to share"),
        ({"exclude": ["*"]}, "of its 6 parameters 2 are floating with at least 2 dimensions"),
        ({"include": "3.wieght"}, "matches no parameter; nearest: '3.weight'"),
        ({"exclude": "*"}, r"include = none, exclude = \['\*'\] leave none"),
    ],
)
def test_patterns_that_choose_nothing_are_refused(patterns, message):
    with pytest.raises(InputError, match=message):
        read_state(network(), **patterns)


def test_a_network_of_vectors_is_told_about_all():
    with pytest.raises(InputError, match=r"network\.share_all = true"):
        read_state(nn.BatchNorm1d(3))


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_every_float_dtype_is_read_exactly(dtype):
    module = network().to(getattr(torch, dtype))
    state = read_state(module)
    weight = state[0]
    assert weight.dtype == dtype
    expected = module[0].weight.detach()
    assert weight.values.dtype == ("float32" if dtype == "bfloat16" else dtype)
    assert_array_equal(weight.values, expected.double().numpy())


def test_a_state_is_a_copy_that_cannot_be_written():
    module = network()
    state = read_state(module)
    before = state[0].values.copy()
    with torch.no_grad():
        module[0].weight.zero_()
    assert_array_equal(state[0].values, before)
    with pytest.raises(ValueError, match="read-only"):
        state[0].values[:] = 0


def test_channels_last_weights_are_read_in_logical_order():
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert not module.weight.is_contiguous()
    assert_array_equal(read_state(module)[0].values, module.weight.detach().numpy())


def test_a_tied_parameter_points_to_the_first_of_its_memory():
    state = read_state(Tied())
    tied = next(p for p in state if p.name == "head.weight")
    assert (tied.role, tied.target, tied.values) == ("tied", "embedding.weight", None)


@pytest.mark.parametrize("pattern", ["head.*", "embedding.*"])
def test_a_tied_parameter_answers_to_all_its_names(pattern):
    assert shared(read_state(Tied(), exclude=[pattern])) == ["middle.weight"]
    assert shared(read_state(Tied(), include=[pattern])) == ["embedding.weight"]


def test_non_finite_shared_weights_are_counted_and_kept_ones_pass():
    module = network()
    with torch.no_grad():
        module[3].weight[0, :2] = torch.tensor([float("nan"), float("inf")])
        module[3].bias[0] = float("inf")
    with pytest.raises(NonFiniteWeightError, match=r"'3.weight' has 2 non-finite weights of 24"):
        read_state(module)
    assert shared(read_state(module, exclude=["3.weight"])) == ["0.weight"]


def test_a_dtype_that_cannot_be_stored_is_named():
    module = network()
    module.register_buffer("scale", torch.zeros(2).to(torch.float8_e4m3fn))
    with pytest.raises(InputError, match="'scale' has dtype float8_e4m3fn"):
        read_state(module)


def test_the_fingerprint_changes_with_values_names_dtypes_and_ties_only():
    reference = network_fingerprint(read_state(network()))
    assert reference == network_fingerprint(read_state(network(), all=True))
    changed = network()
    changed[1].running_mean[0] += 1
    untied = Tied()
    tied = read_state(untied)
    untied.head.weight = nn.Parameter(untied.embedding.weight.detach().clone())
    others = [
        network_fingerprint(read_state(changed)),
        network_fingerprint(read_state(network().double())),
        network_fingerprint(read_state(nn.Sequential(*network(), nn.ReLU(), nn.Linear(3, 3)))),
        network_fingerprint(tied),
        network_fingerprint(read_state(untied)),
    ]
    assert len({reference, *others}) == 6


def test_the_fingerprint_is_the_same_on_every_machine():
    module = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0]]))
    assert network_fingerprint(read_state(module)) == "181184ed55ffc774c45a8d2fa297c781"


def test_counts_are_printed_in_words():
    counts = describe(read_state(Tied()))
    assert (counts.shared_tensors, counts.shared_weights) == (2, 36)
    assert (counts.kept_tensors, counts.kept_elements, counts.tied_tensors) == (1, 4, 1)
    assert counts.original_bytes == 160
    assert str(counts) == (
        "36 weights in 2 tensors shared, 4 elements in 1 tensors kept, 1 tied, 160 bytes as float32"
    )


def test_bytes_count_halves_as_floats_and_integers_as_they_are():
    counts = describe(read_state(network().half()))
    assert counts.original_bytes == 4 * (18 + 2 + 24 + 3 + 4 * 2) + 8
