"""Everything that can go wrong with a candidate, in one study on Ray."""

import os
from pathlib import Path

import pytest

from moeash.methods.uniform.options import UniformOptions
from tests.backends.studies import SMALL_RAY, Faulty, on_ray, run_study, spec, tries

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),
]

TIMEOUT_S = 10.0
PATIENCE_S = 300.0
"""A hog is to be caught, not to be late, however long a busy machine takes to give it memory."""

MARGIN_BYTES = 5 << 30
"""What a hog may take before the memory monitor acts. Other tests take some of it meanwhile, and
the monitor then kills whoever is there."""


def used_fraction(extra):
    values = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    total, free = (int(values[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return (total - free + extra) / total


@pytest.fixture(scope="module")
def touchy_ray(ray_environment):
    """A Ray with a memory monitor that is easily upset, as this machine stands now."""
    import ray

    touchy = {
        "RAY_memory_usage_threshold": f"{used_fraction(MARGIN_BYTES):.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    os.environ.update(touchy)
    ray.init(num_cpus=2, num_gpus=0, **SMALL_RAY)
    yield
    ray.shutdown()
    for name in touchy:
        del os.environ[name]


def linear(most):
    """A study of every k from 2 on, and of nothing else."""
    return spec(
        search__population=most - 1,
        budget={"generations": 1},
        search__algorithm="exhaustive",
        method={"name": "uniform", "k": [2, most]},
        merge={"trials": 0},
        evaluation__max_drop=None,
    )


def with_faults(folder, most, fates, timeout_s):
    """The evaluations of a study some of whose k end badly, by k, and the study."""
    faulty = Faulty(UniformOptions(k=(2, most)), folder=str(folder), fates=fates)
    ray = {"backend": on_ray(timeout_s=timeout_s, max_tries=2)}
    study = run_study(folder, linear(most) | ray, method=faulty)
    return {int(r.candidate["k"]): r.outcome for r in study.evaluations()}, study


def innocents_are_as_ever(got, folder, most):
    (folder / "clean").mkdir()
    clean = run_study(folder / "clean", linear(most))
    for reference in clean.evaluations():
        outcome = got[int(reference.candidate["k"])]
        if outcome.status != "failed":
            for name in ("metric", "status", "fingerprint", "sizes"):
                assert getattr(outcome, name) == getattr(reference.outcome, name), reference.number


def test_every_fault_in_one_study_is_accounted_for(touchy_ray, tmp_path):
    """Poison, hang, raise and flaky: each bounded, each named, innocents intact."""
    fates = {3: "poison", 5: "hang", 7: "raise", 9: "flaky"}
    got, study = with_faults(tmp_path, 13, fates, TIMEOUT_S)
    assert sorted(got) == list(range(2, 14)), "every candidate has an outcome"
    errors = {k: o.error for k, o in got.items() if o.status == "failed"}
    assert sorted(errors) == [3, 5, 7]
    assert all(error.startswith(("gave up after", "ValueError")) for error in errors.values())
    assert errors[3].count("died") == 2
    assert "no answer within 10 s (2 times)" in errors[5]
    assert not any("\n" in error for error in errors.values())
    assert errors[7] == "ValueError: this candidate raises"
    assert {k for k, o in got.items() if o.retriable} == {3, 5}, "7 raised by itself"
    assert tries(tmp_path, 3) >= 2 and tries(tmp_path, 7) >= 1 and tries(tmp_path, 9) >= 2
    assert all(o.metric is None and o.bound is None for o in got.values() if o.status == "failed")
    innocents_are_as_ever(got, tmp_path, 13)
    failed = {r.number for r in study.evaluations() if r.outcome.status == "failed"}
    assert not failed & {s.id for s in study.front()}


def test_what_takes_all_memory_is_given_up_and_its_neighbours_are_not(touchy_ray, tmp_path):
    got, _ = with_faults(tmp_path, 6, {4: "hog"}, PATIENCE_S)
    # Ray may also kill a neighbour of the hog; that is named, and not counted as a try.
    assert {k for k, o in got.items() if o.status == "failed"} == {4}
    assert "ran out of memory" in got[4].error and got[4].retriable
    innocents_are_as_ever(got, tmp_path, 6)
