import pytest

from moeash.errors import InputError
from moeash.networks.patterns import listed, matching

NAMES = ["a.weight", "a.bias", "b.weight"]


def test_every_candidate_of_any_pattern_is_found():
    weights = ["a.weight", "b.weight"]
    assert matching("include", ["a.*", "*.weight"], weights, NAMES) == set(weights)
    assert matching("include", [], weights, NAMES) == set()


def test_a_pattern_without_a_candidate_says_why():
    with pytest.raises(InputError, match=r"include pattern '\*.bias'.*'a.bias'; do so"):
        matching("include", ["*.bias"], ["a.weight"], NAMES, otherwise="do so")
    with pytest.raises(InputError, match=r"matches no parameter; nearest: 'a.weight'"):
        matching("exclude", ["a.weights"], NAMES, NAMES)


def test_patterns_are_listed_as_they_were_given():
    assert (listed(None), listed(("a", "b"))) == ("none", "['a', 'b']")
