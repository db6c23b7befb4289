import threading

import pytest

from moeash.runtime import threads
from moeash.runtime.threads import ahead, default_threads, spread


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


def test_work_is_spread_over_threads_and_comes_back_in_order():
    together = threading.Barrier(3)

    def work(item):
        together.wait(60)  # passes only if three are at work at a time
        return item, threading.current_thread()

    made = list(spread(work, range(6), 3))
    assert [item for item, _ in made] == list(range(6))
    assert threading.current_thread() not in {thread for _, thread in made}


@pytest.mark.parametrize(("n_items", "n_threads"), [(1, 4), (3, 1), (3, 0), (0, 4)])
def test_nothing_to_share_is_done_by_the_caller(n_items, n_threads):
    def prepare():
        raise AssertionError("a thread was started")

    made = spread(lambda _: threading.current_thread(), range(n_items), n_threads, prepare=prepare)
    assert list(made) == [threading.current_thread()] * n_items


def test_every_thread_is_prepared():
    prepared = []
    together = threading.Barrier(2)

    def prepare():
        prepared.append(threading.get_ident())
        together.wait(60)

    workers = set(spread(lambda _: threading.get_ident(), range(20), 2, prepare=prepare))
    assert workers <= set(prepared)
    assert len(prepared) == 2


@pytest.mark.parametrize("n_threads", [1, 2])
def test_what_one_item_raises_is_raised_in_its_turn(n_threads):
    def work(item):
        if item == 1:
            raise ValueError("no")
        return item

    made = spread(work, range(100), n_threads)
    assert next(made) == 0
    with pytest.raises(ValueError, match="no"):
        next(made)


def test_who_stops_asking_has_no_more_begun_and_leaves_no_thread():
    begun = []
    made = spread(begun.append, range(10_000), 2)
    next(made)
    made.close()
    assert len(begun) < 10_000
    assert not [t for t in threading.enumerate() if t.name.startswith("moeash-spread")]
