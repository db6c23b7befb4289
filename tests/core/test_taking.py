import numpy as np
import pytest

from moeash.core._taking import take
from moeash.errors import InputError


@pytest.mark.parametrize("value", ["u2", "u4", "u8"])
@pytest.mark.parametrize("index", ["u1", "u2", "u4"])
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_entries_are_those_that_numpy_takes(value, index, n):
    rng = np.random.default_rng(n)
    entries = rng.integers(0, 1 << 16, 200).astype(value)
    indices = rng.integers(0, 200, n).astype(index)
    out = np.zeros(n, value)
    take(entries, indices, out)
    np.testing.assert_array_equal(out, np.take(entries, indices))


@pytest.mark.parametrize("bad", [5, 255])
def test_an_index_outside_of_the_entries_is_refused(bad):
    with pytest.raises(InputError, match=f"index {bad} was given, of 5 entries"):
        take(np.zeros(5, "u4"), np.array([0, bad, 1], "u1"), np.zeros(3, "u4"))


@pytest.mark.parametrize("room", [2, 4])
def test_room_that_is_not_that_of_the_indices_is_refused(room):
    with pytest.raises(InputError, match=f"3 indices were given, and room for {room}"):
        take(np.zeros(5, "u4"), np.zeros(3, "u1"), np.zeros(room, "u4"))
