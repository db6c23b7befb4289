import pytest
import torch

from moeash.errors import InputError
from moeash.evaluation.holdout import measure_outputs, wilson_interval
from moeash.evaluation.metrics import load_metric


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # solutions of (p - x)^2 = z^2 x (1 - x) / n, to the digits shown
        (9, 10, 0.595850, 0.982124),
        (50, 100, 0.403832, 0.596168),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
    ],
)
def test_wilson_intervals_are_those_of_the_formula(successes, n, low, high):
    got = wilson_interval(successes, n)
    assert got == pytest.approx((low, high), abs=1e-6)
    z2 = 1.959963984540054**2
    for x in got:
        assert (successes / n - x) ** 2 == pytest.approx(z2 * x * (1 - x) / n, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(InputError, match="needed 0 <= successes <= n"):
        wilson_interval(successes, n)


def test_agreement_and_top1_are_both_reported():
    outputs = torch.eye(3)[[0, 1, 1, 0]]
    floats = torch.eye(3)[[0, 1, 1, 1]]
    labels = torch.tensor([0, 1, 2, 1]).numpy()
    result = measure_outputs(outputs, floats, labels, load_metric("agreement"))
    assert (result.n_images, result.metric_name, result.metric) == (4, "agreement", 0.75)
    assert result.top1 == 0.5
    assert result.top1_low < 0.5 < result.top1_high
