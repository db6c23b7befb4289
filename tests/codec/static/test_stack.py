import numpy as np
import pytest

from moeash.codec.static import _stack
from moeash.errors import InputError

SCALE = 1 << 24


def slots(*frequencies, salt=0):
    return _stack.Slots(np.array(frequencies, np.int64), salt)


HALVES = slots(SCALE // 2, SCALE // 2)


@pytest.mark.parametrize(
    "frequencies", [(), (SCALE - 1,), (0, SCALE), (-1, SCALE + 1), (SCALE, SCALE), (2**62, 2**62)]
)
def test_frequencies_that_are_not_positive_or_do_not_fill_the_slots_are_refused(frequencies):
    with pytest.raises(InputError, match="must be positive and sum"):
        slots(*frequencies)


def test_a_salt_below_0_is_refused():
    with pytest.raises(InputError):
        slots(SCALE, salt=-1)


def pushed(ranks=(0, 1), at=0, states=1, room=2):
    words = np.empty(room, np.uint32)
    return _stack.push(HALVES, np.array(ranks, np.int32), at, np.zeros(states, np.uint64), words)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"room": 1}, "do not fit together"),
        ({"states": 0}, "do not fit together"),
        ({"states": 2}, "do not fit together"),
        ({"states": 8}, "do not fit together"),
        ({"at": -1}, "do not fit together"),
        ({"ranks": (0, 2)}, "rank 2 of 2"),
        ({"ranks": (-1, 0)}, "rank -1 of 2"),
    ],
)
def test_what_would_be_read_or_written_outside_is_refused_by_push(arguments, message):
    assert pushed() == pushed(states=4) == 0
    with pytest.raises(InputError, match=message):
        pushed(**arguments)


def popped(left=0, at=0, states=1, symbols=2, counts=2, n=9):
    out = np.empty(n, np.uint8)
    return _stack.pop(
        HALVES,
        np.full(states, 5, np.uint64),
        at,
        np.full(1, 7, np.uint32),
        left,
        np.arange(symbols, dtype=np.uint8),
        np.zeros(counts, np.int64),
        out,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"left": 2},
        {"left": -1},
        {"at": -1},
        {"states": 0},
        {"states": 3},
        {"states": 8},
        {"symbols": 1},
        {"symbols": 3},
        {"counts": 1},
        {"counts": 3},
    ],
)
def test_what_would_be_read_or_written_outside_is_refused_by_pop(arguments):
    assert popped(left=1) == popped(left=1, states=4, at=3) == 0
    assert popped(n=0) == 0
    with pytest.raises(InputError, match="do not fit together"):
        popped(**arguments)


@pytest.mark.parametrize("salt", [0, 1, 4, 12])
def test_every_slot_is_owned_by_the_place_it_lies_in(salt):
    """Frequencies of 1 beside large ones: many places within one bucket."""
    rng = np.random.default_rng(salt)
    frequencies = np.concatenate([np.ones(900), rng.integers(1, 30, 900), [1], [70_000, 5, 9]])
    frequencies = rng.permutation(frequencies).astype(np.int64)
    frequencies[7] += SCALE - frequencies.sum()
    n = frequencies.size
    rank_of_place = (np.arange(n) - salt) % n
    begins = np.concatenate([[0], np.cumsum(frequencies[rank_of_place])])
    asked = np.unique(np.concatenate([begins[:-1], begins[1:] - 1, rng.integers(0, SCALE, 5000)]))
    own, found = slots(*frequencies, salt=salt), np.empty(1, np.uint16)
    ranks, counts = np.arange(n, dtype=np.uint16), np.zeros(n, np.int64)
    for slot in asked.tolist():
        state = np.array([slot], np.uint64)
        _stack.pop(own, state, 0, np.empty(0, np.uint32), 0, ranks, counts, found)
        place = int(np.searchsorted(begins, slot, side="right")) - 1
        assert found[0] == rank_of_place[place]
        assert state[0] == slot - begins[place]
    assert counts.sum() == asked.size
