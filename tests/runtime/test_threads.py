import threading

import pytest

from moeash.runtime import threads
from moeash.runtime.threads import ahead, default_threads


def test_the_next_item_is_made_while_one_is_used_and_no_more():
    made = []
    one = threading.Event()

    def items():
        for item in range(5):
            made.append(item)
            if len(made) == 2:
                one.set()
            yield item

    taken = ahead(items())
    assert next(taken) == 0
    assert one.wait(60)
    assert made == [0, 1]
    assert list(taken) == [1, 2, 3, 4]


def test_what_making_raises_is_raised_in_its_place():
    def items():
        yield 1
        raise ValueError("no")

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="no"):
        next(taken)


def test_whoever_stops_early_leaves_no_thread():
    taken = ahead(iter(range(100)))
    next(taken)
    taken.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("moeash-ahead")]


@pytest.mark.parametrize(
    ("said", "expected"),
    [(None, 8), ("1", 1), (" 4 ", 4), ("3,2", 3), ("64", 8), ("0", 8), ("", 8), ("many", 8)],
)
def test_threads_are_as_many_as_openmp_is_told_and_no_more_than_cores(said, expected, monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert default_threads() == expected
