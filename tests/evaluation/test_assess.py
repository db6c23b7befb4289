import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.errors import EvaluationError
from moeash.evaluation.assess import (
    FunctionAssessment,
    SplitAssessment,
    hardest_first,
    noise_of,
)
from moeash.evaluation.metrics import load_metric
from moeash.networks.loading.sources import load_network


def split(*, memory_limit_bytes=2**31):
    rule = {"search": {"part": "all", "count": 100, "seed": 0}}
    return draw_splits(load_source("digits"), rule, memory_limit_bytes=memory_limit_bytes)["search"]


@pytest.fixture
def module():
    return load_network("digits-cnn")


def assessment(module, *, batch_size=30, metric="top1", **options):
    return SplitAssessment(
        module, split(**options), load_metric(metric), batch_size=batch_size, device="cpu"
    )


def never(bound):
    return False


def test_images_are_visited_by_ascending_margin_of_the_target():
    outputs = torch.tensor([[3.0, 1.0], [2.0, 2.5], [9.0, 0.0], [torch.nan, 0.0], [1.0, 1.0]])
    targets = np.array([0, 0, 0, 1, -1])
    assert_array_equal(hardest_first(outputs, targets), [3, 4, 1, 0, 2])


@pytest.mark.parametrize("memory_limit_bytes", [2**31, 0])
def test_every_measurement_visits_each_image_once_in_one_order(module, memory_limit_bytes):
    one = assessment(module, memory_limit_bytes=memory_limit_bytes)
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    # Stopped first, so that whatever is kept between measurements is incomplete.
    assert one.measure(lambda bound: len(seen) == 2).n_batches == 2
    del seen[:]
    measured = one.measure(never)
    assert (measured.n_batches, one.n_batches) == (4, 4)
    first, seen[:] = torch.cat(seen), []
    assert one.measure(never) == measured
    assert torch.equal(first, torch.cat(seen))
    expected = torch.cat([x for x, _ in split().batches(7, order=one.order)])
    assert torch.equal(first, expected)
    assert measured.metric == one.baseline == measured.bound


@pytest.mark.parametrize("change", [lambda x: x.sub_(1), lambda x: x[:, 0].relu_()])
def test_a_network_that_writes_to_its_images_is_refused(module, change):
    class Writing(nn.Module):
        def forward(self, x):
            change(x)
            return module(x)

    with pytest.raises(EvaluationError, match=r"Writing writes to the images.*x = x\.clone\(\)"):
        assessment(Writing())
    assessment(Writing(), memory_limit_bytes=0)  # what is read anew each time may be changed


def test_a_measurement_ends_with_the_first_hopeless_bound(module):
    one = assessment(module)
    with torch.no_grad():
        next(module.parameters()).zero_()
    bounds = []
    measured = one.measure(lambda bound: bounds.append(bound) or bound < 0.9)
    assert measured.metric is None and measured.n_batches == len(bounds) - 1 < 4
    assert measured.bound == bounds[-1] < 0.9 and bounds[0] == 1.0


def test_a_hopeless_candidate_costs_no_forward_pass(module):
    one = assessment(module)
    module.register_forward_hook(lambda *_: pytest.fail("measured"))
    measured = one.measure(lambda bound: bound <= 1.0)
    assert (measured.metric, measured.bound, measured.n_batches) == (None, 1.0, 0)


def test_a_measurement_that_is_complete_is_not_called_stopped(module):
    one = assessment(module)
    calls = []
    measured = one.measure(lambda bound: calls.append(bound) or len(calls) > 4)
    assert measured.metric is not None and len(calls) == 4


def test_the_noise_of_a_drop_is_its_standard_error_image_by_image():
    before = np.array([True] * 90 + [False] * 10)
    after = before.copy()
    after[:3] = False  # three lost
    after[95:97] = True  # two won
    moved = before.astype(float) - after
    drop = 0.01
    assert moved.mean() == pytest.approx(drop)
    # Five images have changed, and one more counts as changed.
    by_hand = (5 - 100 * drop**2 + 1) ** 0.5 / 100
    assert noise_of(after, before) == pytest.approx(by_hand)
    assert noise_of(before, before) == pytest.approx(0.01), "none that changed is not never"
    assert noise_of(None, before) is None and noise_of(after, None) is None
    numbers = np.array([0.0, 1.0, 2.0, 5.0])
    assert noise_of(numbers - 0.5, numbers) == pytest.approx(0.5 / 4), "the furthest once more"


def test_noise_foretells_drops_on_other_images():
    """Of many halves of some images, the other half's drop is within two noises of this one's."""
    rng = np.random.default_rng(0)
    before = rng.random(2000) < 0.9
    after = np.where(rng.random(2000) < 0.03, ~before, before)
    inside = 0
    for _ in range(200):
        order = rng.permutation(2000)
        here, there = order[:1000], order[1000:]
        drops = [before[half].mean() - after[half].mean() for half in (here, there)]
        inside += drops[1] <= drops[0] + 2 * noise_of(after[here], before[here])
    assert 0.85 <= inside / 200 <= 0.97, "one noise is the error of each half: sqrt 2 together"


@pytest.mark.parametrize(
    "metric, noisy",
    [
        ("top1", True),
        ("agreement", True),
        ("neg_cross_entropy", True),
        ("macro_f1", False),
        ("neg_divergence", False),
    ],
)
def test_metrics_that_luck_moves_say_by_how_much(module, metric, noisy):
    one = assessment(module, metric=metric)
    with torch.no_grad():
        next(module.parameters()).mul_(0.7)
    measured = one.measure(never)
    assert (measured.noise is not None) == noisy
    if noisy:
        assert 0 < measured.noise < 0.2
    assert one.measure(lambda bound: True).noise is None, "it was stopped"


class Wrong(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))
        self._forward = forward

    def forward(self, x):
        return self._forward(x)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x, r"outputs of shape \(100, 1, 8, 8\)"),
        (lambda x: x.flatten(1)[:, :4], "label 9 but the network has only 4 outputs"),
        (lambda x: (x, x), "returned tuple of 2"),
        (lambda x: nn.Linear(3, 2)(x), r"cannot take images of shape \(30, 1, 8, 8\)"),
    ],
)
def test_a_network_that_is_no_classifier_of_these_images_is_refused(forward, message):
    with pytest.raises(EvaluationError, match=message):
        assessment(Wrong(forward))


def test_a_function_is_measured_as_it_is():
    def evaluate(module):
        return float(module.weight.detach().sum())

    evaluate.reference = -5.0
    one = FunctionAssessment(Wrong(None), evaluate)
    assert (one.baseline, one.reference, one.n_batches) == (4.0, -5.0, 1)
    assert one.measure(lambda bound: True).metric == 4.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_function_without_a_finite_value_is_refused(value):
    with pytest.raises(EvaluationError, match="must be a finite number"):
        FunctionAssessment(Wrong(None), lambda module: value)
