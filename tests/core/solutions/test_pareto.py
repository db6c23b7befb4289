import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from moeash.core.solutions.pareto import knee, non_dominated
from moeash.errors import InputError


def non_dominated_by_definition(f):
    """Row by row against every other row, O(n^2)."""
    return np.array(
        [not any((g <= row).all() and (g < row).any() for g in f) for row in f], dtype=bool
    )


@pytest.mark.slow
@given(
    f=st.integers(1, 4).flatmap(
        lambda m: arrays(
            np.float64,
            st.tuples(st.integers(0, 30), st.just(m)),
            # Few values, so that ties and duplicates abound; -0.0 and 0.0 are the same value.
            elements=st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0, 7.0]),
        )
    )
)
@settings(deadline=None, max_examples=300)
def test_non_dominated_equals_its_definition(f):
    assert_array_equal(non_dominated(f), non_dominated_by_definition(f))


@pytest.mark.parametrize("n", [1, 2, 50])
def test_a_staircase_is_all_front_and_its_shadow_is_none(n):
    stairs = np.column_stack([np.arange(n), np.arange(n)[::-1]])
    both = np.vstack([stairs, stairs + 0.5])
    assert_array_equal(non_dominated(both), [True] * n + [False] * n)


def test_three_objectives_of_constant_sum_are_all_front():
    f = np.array([(a, b, 9 - a - b) for a in range(10) for b in range(10 - a)], dtype=float)
    assert non_dominated(f).all()
    assert non_dominated(np.vstack([f, f + np.array([0, 0, 1])])).sum() == len(f)


def test_all_copies_of_a_front_row_are_kept():
    assert_array_equal(non_dominated([[1, 2], [2, 1], [1, 2], [2, 2]]), [1, 1, 1, 0])


def test_no_rows_have_no_front():
    assert non_dominated(np.empty((0, 2))).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_measurement_are_refused(bad):
    with pytest.raises(InputError, match="NaN or infinite"):
        non_dominated([[0.0, 1.0], [bad, 0.0]])


@pytest.mark.parametrize("shape", [(3,), (3, 0), (1, 2, 3)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"expected \(n, m\)"):
        non_dominated(np.zeros(shape))


def test_the_knee_is_where_the_front_bends():
    assert knee([[0, 10], [1, 2], [2, 1.5], [10, 0]]) == 1


def test_the_knee_does_not_depend_on_units():
    f = np.array([[0, 10], [1, 2], [4, 1.9], [10, 0]])
    assert knee(f * np.array([1e-3, 1e6]) + np.array([5, -7])) == knee(f) == 1


def test_a_front_of_one_or_of_equals_has_its_first_row_as_knee():
    assert knee([[3.0, 4.0]]) == 0
    assert knee([[3.0, 4.0], [3.0, 4.0]]) == 0


def test_an_empty_front_has_no_knee():
    with pytest.raises(InputError, match="at least one row"):
        knee(np.empty((0, 2)))
