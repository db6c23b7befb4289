import numpy as np
import pytest

from moeash.codec.static import _stack
from moeash.errors import InputError

SCALE = 1 << 24


def u32(*values):
    return np.array(values, np.uint32)


def pushed(ranks=(0, 1), frequencies=(SCALE // 2, SCALE // 2), begins=(0, SCALE // 2), room=2):
    ranks = np.array(ranks, np.int32)
    return _stack.push(ranks, u32(*frequencies), u32(*begins), 0, np.empty(room, np.uint32))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"begins": (0,)}, "do not fit together"),
        ({"room": 1}, "do not fit together"),
        ({"frequencies": (0, SCALE)}, "do not fit together"),
        ({"begins": (0, SCALE // 2 + 1)}, "do not fit together"),
        ({"ranks": (0, 2)}, "rank 2 of 2"),
        ({"ranks": (-1, 0)}, "rank -1 of 2"),
    ],
)
def test_what_would_be_read_or_written_outside_is_refused_by_push(arguments, message):
    assert pushed()[1] == 0
    with pytest.raises(InputError, match=message):
        pushed(**arguments)


def popped(
    left=0,
    frequencies=(SCALE // 2, SCALE // 2),
    begins=(0, SCALE // 2, SCALE),
    places=(0, 1, 1),
    shift=23,
):
    out = np.empty(3, np.int32)
    found = _stack.pop(
        5, u32(7), left, u32(*frequencies), u32(*begins), np.array(places, np.int32), shift, out
    )
    return found, out.tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {"left": 2},
        {"left": -1},
        {"begins": (0, SCALE // 2)},
        {"begins": (1, SCALE // 2, SCALE)},
        {"begins": (0, SCALE // 2, SCALE - 1)},
        {"begins": (0, SCALE // 2 - 1, SCALE)},
        {"frequencies": ()},
        {"places": (0, 1)},
        {"places": (0, 2, 2)},
        {"places": (0, -1, 1)},
        {"places": (1, 0, 1)},
        {"shift": 22},
        {"shift": -1},
        {"shift": 40},
    ],
)
def test_what_would_be_read_outside_is_refused_by_pop(arguments):
    assert popped(left=1)[0][1] == 0
    with pytest.raises(InputError, match="do not fit together"):
        popped(**arguments)
