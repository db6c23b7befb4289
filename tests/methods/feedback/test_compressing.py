import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from moeash.core.trellis import levels_of
from moeash.errors import InputError
from moeash.methods.feedback import compressing
from moeash.methods.feedback.assignment.columns import (
    entropy_bits,
    nearest,
    prepare_feedback,
    rate_weight,
    zero_aligned_entries,
)
from moeash.methods.feedback.balancing.grids import BEST, strides
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.curvature.measuring import LayerCurvature
from moeash.methods.feedback.preparing import PreparedLayers, Settings, nearest_only, prepare
from tests.marks import slow
from tests.methods.feedback.networks import Net, images, outputs


@pytest.fixture(scope="module")
def network():
    return Net().eval()


@pytest.fixture(scope="module")
def prepared(network):
    return prepare(network, images().split(16))


def test_a_fine_grid_reproduces_the_network(network, prepared):
    result = compress(prepared, 20_000, 0.0)
    expected = outputs(network, {}, images(seed=1))
    got = outputs(network, result.values, images(seed=1))
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def test_every_weight_is_an_entry_in_use_and_zero_is_one(prepared):
    result = compress(prepared, 12, 0.05)
    assert (result.entries == 0).any()
    counts = sum(
        torch.bincount(i.flatten(), minlength=len(result.entries)) for i in result.indices.values()
    )
    assert counts.shape == result.entries.shape
    assert (counts > 0).all()


@pytest.fixture(scope="module")
def in_one_order(network):
    shared = ["stem.weight", "mix.weight", "point.weight", "head.weight", "table.weight"]
    return prepare(network, images().split(16), Settings(common_order=True), shared=shared)


@pytest.mark.parametrize("n_states", [4, 8, 16])
def test_every_tensor_follows_the_trellis_and_no_entry_between_is_missing(in_one_order, n_states):
    assert set(in_one_order.plain) == {"table.weight"}
    result = compress(in_one_order, 40, 0.05, trellis=n_states)
    zero = int(result.entries.abs().argmin())
    steps = result.entries.double().diff()
    assert float(result.entries[zero]) == 0
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=1e-5, atol=0)
    for name, indices in result.indices.items():
        values = (indices.numpy() - zero).astype(np.int32)
        assert levels_of(values.ravel(), values.shape, n_states) is not None, name


def test_zero_stays_an_entry_of_a_trellis_nothing_falls_on(network):
    positive = copy.deepcopy(network)
    with torch.no_grad():
        positive.table.weight.copy_(torch.linspace(5, 6, 30).reshape(3, 10))
    prepared = nearest_only(positive, ["table.weight"])
    result = compress(prepared, 60, 0.0, trellis=4)
    assert float(result.entries[0]) == 0
    assert int(result.indices["table.weight"].min()) > 40


def test_feedback_moves_the_outputs_less_than_nearest_bins(network, prepared):
    x = images(200, seed=2)
    expected = outputs(network, {}, x)
    got = (outputs(network, compress(prepared, 12, 0.0).values, x) - expected).square().mean()
    weights = {f.name: network.state_dict()[f.name] for f in prepared.factors}
    low, high = (
        f([float(f_(w)) for w in weights.values()])
        for f, f_ in ((min, torch.min), (max, torch.max))
    )
    grid = zero_aligned_entries(low, high, 12)
    rounded = {name: grid[nearest(w, grid)] for name, w in weights.items()}
    assert float(got) < 0.5 * float((outputs(network, rounded, x) - expected).square().mean())


def test_the_same_candidate_gives_the_same_indices(network, prepared):
    first = compress(prepared, 12, 0.05)
    again = compress(prepare(network, images().split(16)), 12, 0.05)
    assert all(torch.equal(first.indices[name], again.indices[name]) for name in first.indices)
    assert all(torch.equal(first.kept[name], again.kept[name]) for name in first.kept)


def test_a_codebook_of_ones_own_takes_the_place_of_the_grid(prepared):
    entries = torch.tensor([-0.21, -0.05, 0.02, 0.3])
    result = compress(prepared, 12, 0.05, entries=entries)
    assert torch.isin(result.entries, entries).all()
    grid = compress(prepared, 12, 0.002)  # bits so cheap that no row leaves an entry out
    low, high = prepared.span
    again = compress(prepared, 12, 0.002, entries=zero_aligned_entries(low, high, 12))
    assert all(torch.equal(again.indices[name], i) for name, i in grid.indices.items())


def test_bad_calls_are_refused_with_the_reason(network, prepared):
    with pytest.raises(InputError, match="rate -1"):
        compress(prepared, 9, -1)
    with pytest.raises(InputError, match="no weight to share"):
        compress(prepare(network, [images()], shared=[]), 9, 0.0)


@pytest.fixture(scope="module")
def transformer():
    torch.manual_seed(0)
    network = VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10).eval()
    nn.init.normal_(network.heads.head.weight, std=0.3)  # torchvision begins with zeros
    nn.init.normal_(network.class_token)
    return network


def pictures(n, seed):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["gradients", slow("inputs")])
def test_feedback_moves_a_transformers_outputs_less_than_nearest_bins(transformer, kind):
    shared = [name for name, p in transformer.named_parameters() if p.ndim >= 2]
    ours = prepare(transformer, pictures(200, 0).split(50), Settings(kind=kind), shared=shared)
    assert set(ours.reasons) == {"class_token", "encoder.pos_embedding"}
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_bias" in ours.kept
    x = pictures(100, 1)
    expected = outputs(transformer, {}, x)
    moved = [
        float((outputs(transformer, compress(p, 40, 0.0).values, x) - expected).square().mean())
        for p in (ours, nearest_only(transformer, shared))
    ]
    assert moved[0] < 0.6 * moved[1]


@pytest.mark.slow
def test_a_fine_grid_reproduces_a_transformer(transformer):
    result = compress(prepare(transformer, [pictures(20, 0)]), 100_000, 0.0)
    x = pictures(10, 1)
    got, expected = outputs(transformer, result.values, x), outputs(transformer, {}, x)
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=0)


def gaussian_layer(name, sensitivity, seed=0, columns=40, lookup=False):
    """A layer of normal weights whose columns do not know of each other."""
    sensitivity = torch.tensor([sensitivity], dtype=torch.float64)
    rows = sensitivity.shape[1]
    weight = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(seed))
    nothing = torch.zeros(1, columns, dtype=torch.float64)
    gram = torch.eye(columns, dtype=torch.float64)[None]
    return prepare_feedback(
        LayerCurvature(
            name, (rows, columns), weight, gram, sensitivity, None, nothing, None, 1, lookup
        ),
        least=1e-9,
    )


@pytest.mark.parametrize(("price", "stride"), [(0.0, 1), (1, 1), (4, 2), (9, 3), (16, 4), (40, 6)])
def test_strides_bring_what_a_bit_is_worth_near_the_best(price, stride):
    factor = gaussian_layer("a", [1.0] * 6)
    found = strides(factor, price * BEST * factor.curvature * 0.01, step=0.1)
    assert found.unique().tolist() == [stride]


def test_words_that_matter_less_have_longer_strides_and_rows_of_other_layers_one():
    factor = gaussian_layer("a", [1.0, 1e-2, 1e-4], lookup=True)
    price = BEST * float(factor.sensitivity[0, 0] / factor.variance.mean())
    assert strides(factor, price, step=1.0).tolist() == [[1, 12, 96]]
    coupled = compressing.replace(factor, rows=object())
    for other in (coupled, gaussian_layer("a", [1.0, 1e-2, 1e-4])):
        assert len(strides(other, price, step=1.0).unique()) == 1


def both_layers():
    matters = gaussian_layer("matters", [1.0] * 50)
    hardly = gaussian_layer("hardly", [2e-3] * 40 + [4e-4] * 10, seed=1, lookup=True)
    return PreparedLayers((matters, hardly), {}, {}, {})


def costs(prepared, result, price):
    """What a layer's error and bits cost together, by its name."""
    found = {}
    for factor in prepared.factors:
        lost = factor.weight[0] - result.values[factor.name]
        error = float((lost.square().sum(1) * factor.sensitivity[0]).sum() / factor.variance[0, 0])
        found[factor.name] = error + price * entropy_bits(result.indices[factor.name])
    return found


def test_layers_and_rows_that_matter_little_use_every_mth_entry_and_cost_less_for_it(monkeypatch):
    prepared = both_layers()
    low, high = prepared.span
    price = rate_weight(prepared.factors, (high - low) / 60, 0.1)
    found = compress(prepared, 60, 0.1)
    step = (high - low) / 60
    for rows, stride in ((slice(0, 40), 16), (slice(40, 50), 48)):
        steps = found.values["hardly"][rows] / step / stride
        torch.testing.assert_close(steps, steps.round(), atol=1e-4, rtol=0)
    fine = found.values["matters"] / step
    assert bool((fine.round().long() % 2 == 1).any())
    monkeypatch.setattr(
        compressing,
        "strides",
        lambda factor, *_: torch.ones_like(factor.order[:1, :1]).expand(1, factor.weight.shape[1]),
    )
    everywhere = compress(prepared, 60, 0.1)
    assert torch.equal(found.values["matters"], everywhere.values["matters"])
    cost, before = (costs(prepared, result, price) for result in (found, everywhere))
    assert cost["hardly"] < 0.9 * before["hardly"]


def test_rows_of_which_no_entry_but_zero_is_left_are_zero():
    factor = gaussian_layer("a", [1.0] * 5 + [1e-8] * 5, lookup=True)
    found = compress(PreparedLayers((factor,), {}, {}, {}), 30, 0.1)
    assert bool((found.values["a"][5:] == 0).all())
    assert bool((found.values["a"][:5] != 0).any())


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_states", [0, 8])
def test_layers_by_threads_beside_each_other_have_the_same_indices(
    in_one_order, n_states, torch_threads
):
    threads = set()

    def rule(factor, entries, price):
        threads.add(threading.get_ident())
        together.wait(60)
        return compressing._rule(int(entries.abs().argmin()), 2, n_states)(factor, entries, price)

    together = threading.Barrier(1)
    torch.set_num_threads(1)
    alone = compress(in_one_order, 40, 0.05, trellis=n_states, assign=rule)
    assert threads == {threading.get_ident()}
    threads.clear()
    together = threading.Barrier(len(in_one_order.factors))  # passes if all are at work at a time
    torch.set_num_threads(len(in_one_order.factors))
    beside = compress(in_one_order, 40, 0.05, trellis=n_states, assign=rule)
    assert len(threads) == len(in_one_order.factors) > 1
    assert torch.equal(beside.entries, alone.entries)
    assert beside.indices.keys() == alone.indices.keys()
    for name, indices in alone.indices.items():
        assert torch.equal(beside.indices[name], indices)
    for name, values in alone.kept.items():
        assert torch.equal(beside.kept[name], values)


def test_a_layer_that_fails_leaves_as_many_threads_as_there_were(in_one_order, torch_threads):
    def rule(factor, entries, price):
        raise InputError("no")

    torch.set_num_threads(3)
    with pytest.raises(InputError, match="no"):
        compress(in_one_order, 40, 0.05, assign=rule)
    later = ThreadPoolExecutor(1).submit(torch.get_num_threads)  # a thread begun after that
    assert (torch.get_num_threads(), later.result()) == (3, 3)
    assert not [t for t in threading.enumerate() if t.name.startswith("moeash-spread")]
