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

# A hog is to be caught, and not to be late: it takes 2 s here alone, and 8 s were too few in CI.
TIMEOUT_S = 20.0
MARGIN_BYTES = 5 << 30
"""What a hog may take before the memory monitor acts. Other tests take some of it meanwhile, and
the monitor then kills whoever is there."""


def used_fraction(extra):
    values = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    total, free = (int(values[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return (total - free + extra) / total


@pytest.fixture
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


def test_every_fault_in_one_study_is_accounted_for(touchy_ray, tmp_path):
    """Poison, hang, raise, flaky and out of memory: each bounded, each named, innocents intact."""
    linear = spec(
        search__population=12,
        budget={"generations": 1},
        search__algorithm="exhaustive",
        method={"name": "uniform", "k": [2, 13]},
        merge={"trials": 0},
        evaluation__max_drop=None,
    )
    fates = {3: "poison", 5: "hang", 7: "raise", 9: "flaky", 11: "hog"}
    faulty = Faulty(UniformOptions(k=(2, 13)), folder=str(tmp_path), fates=fates)
    study = run_study(
        tmp_path, linear | {"backend": on_ray(timeout_s=TIMEOUT_S, max_tries=2)}, method=faulty
    )
    (tmp_path / "clean").mkdir()
    clean = run_study(tmp_path / "clean", linear)

    got = {int(r.candidate["k"]): r.outcome for r in study.evaluations()}
    assert sorted(got) == list(range(2, 14)), "every candidate has an outcome"
    errors = {k: o.error for k, o in got.items() if o.status == "failed"}
    assert sorted(errors) == [3, 5, 7, 11]
    # Ray may also kill a neighbour of the hog; that is named, and not counted as a try.
    assert all(error.startswith(("gave up after", "ValueError")) for error in errors.values())
    assert errors[3].count("died") == 2
    assert "no answer within 20 s (2 times)" in errors[5]
    assert not any("\n" in error for error in errors.values())
    assert errors[7] == "ValueError: this candidate raises"
    assert "ran out of memory" in errors[11]
    assert {k for k, o in got.items() if o.retriable} == {3, 5, 11}, "7 raised by itself"
    assert tries(tmp_path, 3) >= 2 and tries(tmp_path, 7) >= 1 and tries(tmp_path, 9) >= 2
    assert all(o.metric is None and o.bound is None for o in got.values() if o.status == "failed")
    reference = {int(r.candidate["k"]): r.outcome for r in clean.evaluations()}
    for k in set(got) - set(errors):
        same = ("metric", "status", "fingerprint", "sizes")
        assert [getattr(got[k], n) for n in same] == [getattr(reference[k], n) for n in same], k
    failed = {r.number for r in study.evaluations() if r.outcome.status == "failed"}
    assert not failed & {s.id for s in study.front()}
