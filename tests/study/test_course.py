"""Whole real studies: what bounds them, what they prepare, what their hypervolume says."""

import pytest

from moeash.api.studies import run_with_output
from moeash.backends.inprocess import InProcessBackend
from moeash.methods.options import MethodOptions
from moeash.methods.registry import METHODS
from moeash.methods.uniform.options import UniformOptions
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.backends.studies import Listener, Preparing
from tests.digits import BASE, digits_plan, merged
from tests.marks import slow

MERGING = {"trials": 10, "max_drop": 0.1}


def study(folder, told, **changes):
    plan = digits_plan(merge=MERGING, **changes)
    return run(plan, SqlStorage(str(folder / "a.db")), InProcessBackend, told)


def endings(told):
    return [(event.phase, event.ending) for event in told.of("phase_ended")]


@pytest.mark.parametrize("algorithm", ["nsga2", "steady_nsga2"])
@pytest.mark.parametrize("evaluations", [slow(8), 13])
def test_evaluations_are_those_of_the_whole_course(tmp_path, algorithm, evaluations):
    told = Listener()
    done = study(
        tmp_path,
        told,
        search={"algorithm": algorithm, "population": 4},
        budget={"wall_time_s": 100.0, "evaluations": evaluations, "generations": 2},
    )
    assert len(done.evaluations()) == len(told.new) == evaluations
    if evaluations == 8:
        # Merging is announced, and has nothing left to spend.
        assert done.record.ending == "generations"
    assert endings(told)[-1] == ("merge", "evaluations")


@pytest.mark.parametrize("algorithm", ["nsga2", "steady_nsga2"])
def test_wall_time_is_that_of_the_whole_course(tmp_path, algorithm):
    told = Listener()
    done = study(
        tmp_path,
        told,
        search={"algorithm": algorithm, "population": 4},
        budget={"wall_time_s": 1e-6, "evaluations": 99},
    )
    assert {record.stage for record in done.evaluations()} == {"search"}
    assert len(done.evaluations()) <= 4, "no more than the generation that had begun"
    assert {ending for _, ending in endings(told)} == {"wall_time"}
    assert [phase for phase, _ in endings(told)] in (["search"], ["search", "merge"])


@pytest.mark.slow
@pytest.mark.parametrize("k, is_cut", [([4, 6], True), (None, False)])
def test_a_front_that_the_given_range_cuts_is_noted_and_one_in_a_found_range_is_not(
    tmp_path, k, is_cut
):
    told = Listener()
    method = {"name": "feedback", "sketches": 1, "images": 60, "k": k}
    splits = {"calibration": {"part": "all", "count": 60, "seed": 0}}
    study(
        tmp_path,
        told,
        method=method,
        data={"splits": splits},
        evaluation={"metric": "neg_divergence"},
        search={"population": 4},
        budget={"generations": 1},
        refine={"solutions": 0},
    )
    notes = [event.text for event in told.of("note") if "bound of the search" in event.text]
    assert [("k = 4" in text, "k = 6" in text) for text in notes] == (
        [(True, False), (False, True)] if is_cut else []
    )


@pytest.mark.slow
def test_a_study_of_a_divergence_has_a_hypervolume_that_shows_its_progress(tmp_path):
    plan = digits_plan(
        evaluation={"metric": "neg_divergence"}, method={"k": [8, 64]}, budget={"generations": 4}
    )
    done = run(plan, SqlStorage(str(tmp_path / "a.db")), InProcessBackend)
    volumes = [generation.hypervolume for generation in done.generations()]
    assert volumes == sorted(volumes)
    # With a reference of -10 nats, whatever was measured, this is a tenth of a per cent.
    assert volumes[-1] > 1.01 * volumes[0] > 0


@pytest.fixture
def preparations(tmp_path, monkeypatch):
    """Return how often the method has prepared."""
    file = tmp_path / "prepared"

    def make(options: MethodOptions):
        return Preparing(options, file=str(file))

    monkeypatch.setitem(METHODS, UniformOptions, make)
    return lambda: len(file.read_text().splitlines())


@pytest.mark.slow  # for the pictures
def test_a_run_with_output_prepares_once_and_again_only_writes(tmp_path, preparations):
    out = tmp_path / "out"
    plain = merged(BASE, {"budget": {"generations": 1}, "output": {"folder": str(out)}})
    _, first = run_with_output(plain, storage=str(tmp_path / "a.db"))
    assert preparations() == 1
    written = {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"front.json", "front.png", "digits.moeash"} <= written.keys()
    for path in out.iterdir():
        path.unlink()
    told = Listener()
    run_with_output(plain, storage=str(tmp_path / "a.db"), progress=told)
    assert told.new == [] and preparations() == 2
    again = {path.name: path.read_bytes() for path in out.iterdir()}
    assert again.keys() == written.keys() and first.report is not None
    assert again["digits.moeash"] == written["digits.moeash"]
    assert again["front.json"] == written["front.json"]
