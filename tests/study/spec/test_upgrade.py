import pytest

from moeash.errors import SpecError
from moeash.study.spec.reading import parse_spec
from moeash.study.spec.upgrade import UPGRADES, VERSION, upgraded
from tests.digits import BASE


@pytest.mark.parametrize("version", [{}, {"version": 1}])
def test_a_spec_of_the_first_version_is_read_as_it_is(version):
    assert parse_spec({**BASE, **version}) == parse_spec(BASE)


def test_a_newer_spec_is_refused_with_what_to_do():
    with pytest.raises(SpecError, match=r"spec: version is 2, .* up to version 1; install a newer"):
        parse_spec({**BASE, "version": 2, "keys_of_tomorrow": True})


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None, 10**5000], ids=range(7))
def test_a_version_that_is_none_is_refused(version):
    with pytest.raises(SpecError, match=r"version is .*, needed an integer from 1 to 1"):
        parse_spec({**BASE, "version": version})


def test_every_older_version_has_an_upgrade():
    assert sorted(UPGRADES) == list(range(1, VERSION))


def test_older_specs_are_upgraded_step_by_step_and_left_as_they_are():
    def renamed(spec):
        return {k: v for k, v in spec.items() if k != "seeds"} | {"seed": spec["seeds"]}

    def doubled(spec):
        return spec | {"seed": 2 * spec["seed"]}

    steps = {1: renamed, 2: doubled}
    given = {"seeds": 4}
    assert upgraded(given, version=3, upgrades=steps) == {"seed": 8, "version": 3}
    assert given == {"seeds": 4}
    now = {"version": 2, "seed": 4}
    assert upgraded(now, version=3, upgrades=steps) == {"seed": 8, "version": 3}
