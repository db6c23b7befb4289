import pytest
import torch
from torch import nn

from moeash.errors import InputError
from moeash.methods.feedback.balancing.scales import Balancing
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, prepare
from tests.memory import output_of
from tests.methods.feedback.networks import Net, images


@pytest.fixture(scope="module")
def network():
    return Net().eval()


@pytest.fixture(scope="module")
def prepared(network):
    return prepare(network, images().split(16))


def test_only_absorbers_and_statistics_change_among_the_kept(prepared):
    assert set(prepared.kept) == {
        "stem.bias",
        "head.bias",
        *(f"norm{i}.running_{what}" for i in (1, 2) for what in ("mean", "var")),
    }
    assert set(compress(prepared, 12, 0.0).kept) == set(prepared.kept)


def test_what_has_no_curvature_is_named_and_rounded(network):
    shared = ["mix.weight", "table.weight", "head.bias"]
    prepared = prepare(network, [images()], shared=shared)
    assert [factor.name for factor in prepared.factors] == ["mix.weight"]
    assert prepared.n_calibrated == 16 * 8 * 9
    assert prepared.reasons == {
        "table.weight": "its layer was not called by the calibration run",
        "head.bias": "it is not the weight of a layer",
    }
    result = compress(prepared, 9, 0.0)
    assert set(result.indices) == set(shared)
    weight = network.table.weight.detach()
    step = (prepared.span[1] - prepared.span[0]) / 9
    assert (
        float((result.entries[result.indices["table.weight"]] - weight).abs().max()) < 0.51 * step
    )


def test_a_shared_bias_absorbs_nothing(network):
    prepared = prepare(network, [images()], shared=["stem.weight", "stem.bias"])
    assert prepared.kept == {}
    assert prepared.factors[0].absorber is None


def test_without_absorbers_no_kept_tensor_changes(network):
    prepared = prepare(network, [images()], Settings(absorb=False))
    assert len(prepared.factors) == 4
    assert prepared.kept == {}
    assert all(f.absorber is None and not f.absorbed.any() for f in prepared.factors)


def test_a_parameter_the_network_does_not_have_is_named(network):
    with pytest.raises(InputError, match=r"no parameter 'mix\.wait'"):
        prepare(network, [images()], shared=["mix.wait"])


def test_progress_goes_through_the_layers_and_the_images_measured_again(network):
    told = []
    prepare(network, images(64).split(16), progress=lambda *report: told.append(report))
    factorising = [report for report in told if report[0] == "factorising layers"]
    assert factorising == [("factorising layers", i, 4) for i in (1, 2, 3, 4)]
    measuring = [report[1:] for report in told if report[0] == "measuring rows"]
    assert measuring[-1][0] == measuring[-1][1] == 64
    assert told == factorising + [("measuring rows", *report) for report in measuring]


@pytest.mark.parametrize(("scarce", "damping"), [(0.0, 0.1), (0.5, 0.5 * 3**0.5), (0.01, 0.1)])
def test_a_layer_seen_at_few_positions_is_damped_more(scarce, damping):
    """An image is one position to a linear layer, and 36 to a convolution here."""
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 36, 5)).eval()
    alone = {"rows": "independent", "balancing": Balancing(0.0)}

    def factors(damping, scarce=0.0):
        settings = Settings(damping=damping, scarce=scarce, **alone)
        return prepare(network, [images(36)], settings).factors

    convolution, linear = factors(0.1, scarce)
    assert torch.equal(convolution.variance, factors(0.1)[0].variance)
    assert torch.equal(linear.variance, factors(damping)[1].variance)


WIDE = """
import torch
from torch import nn
from moeash.methods.feedback.preparing import prepare
from tests.memory import most_bytes

def prepared(columns):
    network = nn.Sequential(nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    prepare(network, [torch.randn(16, columns)])

torch.set_num_threads(1)
torch.manual_seed(0)
prepared(64)
before = most_bytes()
prepared(3072)
print((most_bytes() - before) / (8 * 3072**2))
"""


@pytest.mark.slow
def test_a_wide_layer_takes_the_memory_of_a_few_of_its_matrices():
    # The fully connected layers of AlexNet and VGG have 9,216 and 25,088 columns: .7 and 5 GB each.
    matrices = float(output_of(WIDE))
    assert 1 < matrices < 4.2  # 3.2, seldom 3.8; 4.7 with its factors and inverse apart
