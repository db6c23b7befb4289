import numpy as np
import pytest

from moeash.searches.hypervolume import hypervolume


@pytest.mark.parametrize("n", [1, 2, 10])
def test_a_staircase_has_the_volume_of_its_steps(n):
    # Unit steps below (n, n): the rows i cover n - i by 1.
    stairs = np.column_stack([np.arange(n), np.arange(n)[::-1]])
    assert hypervolume(stairs, np.array([n, n])) == n * (n + 1) / 2


def test_dominated_and_repeated_rows_add_nothing():
    f = [[0.0, 0.5], [0.5, 0.0]]
    more = [*f, [0.5, 0.5], [0.0, 0.5]]
    assert hypervolume(more, np.ones(2)) == hypervolume(f, np.ones(2)) == 0.75


def test_rows_beyond_the_reference_count_nothing():
    assert hypervolume([[0.5, 0.5], [-9.0, 1.0], [2.0, -9.0]], np.ones(2)) == 0.25
    assert hypervolume([[1.0, 1.0]], np.ones(2)) == 0.0
    assert hypervolume(np.empty((0, 2)), np.ones(2)) == 0.0


def test_three_objectives_are_measured():
    assert hypervolume([[0, 0, 0.5], [0.5, 0.5, 0]], np.ones(3)) == 0.5 + 0.125
