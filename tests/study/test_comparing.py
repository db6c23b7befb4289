import pytest

from moeash.errors import InputError
from moeash.study.comparing import compare

A = [(0.97, 3000), (0.95, 2000), (0.90, 1000)]
B = [(0.97, 4000), (0.95, 2000), (0.93, 900)]


@pytest.fixture
def pair(make_study):
    """Studies whose float network has .98 and 10,000 B."""
    facts = {"baseline": 0.98, "original_bytes": 10_000}
    return [make_study(points, name=name, **facts) for name, points in (("a", A), ("b", B))]


def test_the_numbers_of_two_fronts_are_those_worked_out_by_hand(pair):
    got = compare(pair)
    original = 10_000
    assert got["reference"] == {"metric": 0.90, "size_bytes": original}
    # A: two steps above .90; its point at the reference adds nothing.
    a = (0.97 - 0.90) * (original - 3000) + (0.95 - 0.90) * 1000
    b = (0.97 - 0.90) * (original - 4000) + (0.95 - 0.90) * 2000 + (0.93 - 0.90) * 1100
    volumes = {s["name"]: s["hypervolume"] for s in got["studies"]}
    assert volumes == {
        "a": pytest.approx(a / original),
        "b": pytest.approx(b / original),
    }
    assert got["coverage"] == {
        "a": {"b": pytest.approx(2 / 3)},  # (.97, 4000), and (.95, 2000) as an equal
        "b": {"a": pytest.approx(2 / 3)},  # (.95, 2000) as an equal, and (.90, 1000)
    }
    rows = compare(pair, [0.015, 0.055, 0.2])["at_equal_drop"]
    within = {row["drop"]: row["bytes"] for row in rows}
    assert within == {
        0.015: {"a": 3000, "b": 4000},
        0.055: {"a": 2000, "b": 900},
        0.2: {"a": 1000, "b": 900},
    }


def test_drops_are_round_and_lie_on_the_fronts(pair):
    drops = [row["drop"] for row in compare(pair)["at_equal_drop"]]
    assert drops == [0.02, 0.05]


def test_what_nothing_meets_is_told_as_nothing(pair):
    (row,) = compare(pair, [-0.5])["at_equal_drop"]
    assert row["bytes"] == {"a": None, "b": None}


def test_one_study_or_one_twice_is_refused(pair):
    with pytest.raises(InputError, match="got 1 study to compare; name two or more"):
        compare(pair[:1])
    with pytest.raises(InputError, match="named twice"):
        compare([pair[0], pair[0]])


@pytest.mark.parametrize(
    ("fact", "complaint"),
    [
        ("network_fingerprint", "of different networks"),
        ("data_fingerprint", "on different images"),
        ("metric_name", "different metrics"),
    ],
)
def test_what_does_not_compare_is_refused(make_study, fact, complaint):
    pair = [make_study(A, name="a"), make_study(B, name="b", **{fact: "other"})]
    with pytest.raises(InputError, match=f"'a' and 'b' .*{complaint}"):
        compare(pair)
