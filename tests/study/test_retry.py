"""Failures by circumstance are tried again when a person asks for it, and only those."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pytest

from moeash.backends.inprocess import InProcessBackend
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.backends.studies import Listener
from tests.digits import digits_plan


@dataclass(frozen=True)
class Starved(Uniform):
    """Runs out of memory at some k while a file exists, and refuses others for good."""

    marker: str = ""
    starving: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()

    def compress(self, prepared, candidate, **way):
        k = int(candidate["k"])
        if k in self.starving and Path(self.marker).exists():
            raise MemoryError("somebody else has it all")
        if k in self.refused:
            raise ValueError("never")
        return super().compress(prepared, candidate, **way)


def study(folder, *, retry_failed=False, algorithm="nsga2", merge=True, **faults):
    plan = digits_plan(
        search={"algorithm": algorithm},
        budget={"generations": 3},
        merge={"trials": 3 if merge else 0},
    )
    method = Starved(UniformOptions(k=(2, 64)), marker=str(folder / "starving"), **faults)
    plan = dataclasses.replace(plan, task=dataclasses.replace(plan.task, method=method))
    told = Listener()
    storage = SqlStorage(str(folder / "a.db"))
    return run(plan, storage, InProcessBackend, told, retry_failed=retry_failed), told


def measured(study):
    return {r.job.key: (r.stage, r.outcome.metric, r.outcome.sizes) for r in study.evaluations()}


def complete(study):
    """What was measured to the end; where others were stopped depends on what was known then."""
    return {key: value for key, value in measured(study).items() if value[1] is not None}


def volumes(study):
    return [(g.index, g.hypervolume, g.n_evaluations, g.n_front) for g in study.generations()]


def failed(study):
    return {int(r.candidate["k"]): r for r in study.evaluations() if r.outcome.status == "failed"}


FAULTS = {"starving": (2, 37), "refused": (20,)}


@pytest.fixture
def damaged(tmp_path):
    (tmp_path / "starving").touch()
    found, _ = study(tmp_path, **FAULTS)
    assert {k: r.outcome.retriable for k, r in failed(found).items()} == {
        2: True,
        37: True,
        20: False,
    }
    return found


@pytest.mark.slow
def test_after_a_retry_the_study_holds_all_that_an_undisturbed_one_holds(damaged, tmp_path):
    (tmp_path / "starving").unlink()
    (tmp_path / "clean").mkdir()
    clean, _ = study(tmp_path / "clean", **FAULTS)
    mended, told = study(tmp_path, retry_failed=True, **FAULTS)
    assert "2 failed evaluations will be tried again" in told.notes
    assert sorted(failed(mended)) == [20]
    assert complete(clean).items() <= complete(mended).items()
    assert volumes(clean) == volumes(mended)
    numbers = [r.number for r in mended.evaluations()]
    assert len(numbers) == len(set(numbers))
    kept = {r.number: r.job.key for r in damaged.evaluations() if r.outcome.status != "failed"}
    assert kept.items() <= {r.number: r.job.key for r in mended.evaluations()}.items()


@pytest.mark.slow
def test_nothing_is_tried_again_unasked(damaged, tmp_path):
    (tmp_path / "starving").unlink()
    again, told = study(tmp_path, **FAULTS)
    assert told.new == [] and sorted(failed(again)) == [2, 20, 37]


@pytest.mark.slow
def test_what_fails_again_is_stored_again_and_changes_nothing(damaged, tmp_path):
    again, told = study(tmp_path, retry_failed=True, **FAULTS)
    assert len(told.new) == 2
    assert measured(again) == measured(damaged) and volumes(again) == volumes(damaged)


@pytest.mark.slow
def test_a_steady_study_proposes_what_was_lost_or_something_new(tmp_path):
    (tmp_path / "starving").touch()
    lost, _ = study(tmp_path, algorithm="steady_nsga2", merge=False, starving=(2, 64))
    assert failed(lost)
    (tmp_path / "starving").unlink()
    mended, _ = study(
        tmp_path, algorithm="steady_nsga2", merge=False, starving=(2, 64), retry_failed=True
    )
    assert not failed(mended) and len(mended.evaluations()) == 24
