from moeash.backends.deadlines import Deadlines


def test_a_later_deadline_takes_the_place_of_the_one_before():
    deadlines = Deadlines()
    deadlines.set(1, 5.0)
    deadlines.set(2, 7.0)
    deadlines.set(1, 9.0)
    assert deadlines.earliest() == 7.0
    assert deadlines.take_due(8.0) == [2]
    assert deadlines.take_due(9.0) == [1]
    assert deadlines.earliest() is None


def test_a_dropped_deadline_never_comes():
    deadlines = Deadlines()
    deadlines.set(1, 5.0)
    deadlines.drop(1)
    deadlines.drop(2)
    assert deadlines.take_due(10.0) == []


def test_outdated_entries_do_not_pile_up():
    deadlines = Deadlines()
    for n in range(2_000):
        deadlines.set(1, float(n))
        deadlines.set(2, float(n))
        deadlines.drop(2)
    assert len(deadlines) < 100
    assert deadlines.take_due(1e9) == [1]
