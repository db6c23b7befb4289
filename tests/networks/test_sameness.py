import pytest
import torch

from moeash.networks.sameness import distance


@pytest.mark.parametrize(
    ("expected", "outputs", "far"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -4.0], [1.2, -4.1], 0.05),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-9], float("inf")),
        ([1.0, 2.0], [float("nan"), 2.0], float("inf")),
        ([float("nan")], [float("nan")], float("inf")),
        ([2.0, float("-inf")], [2.1, float("-inf")], 0.05),
        ([2.0, float("-inf")], [2.0, float("inf")], float("inf")),
        ([2.0, 1.0], [2.0, float("-inf")], float("inf")),
        ([], [], 0.0),
    ],
)
def test_distance_is_relative_to_the_largest_output_and_nan_is_infinitely_far(
    expected, outputs, far
):
    assert distance(torch.tensor(expected), torch.tensor(outputs)) == pytest.approx(far)
