"""Solutions of a finished study are built from few images of the search split, or from files."""

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

import moeash
from moeash.backends.inprocess import InProcessBackend
from moeash.codec.container import read
from moeash.core.solutions.recipe import Merge
from moeash.data.arrays import digits_source
from moeash.errors import StorageError
from moeash.evaluation.assess import SAMPLED_IMAGES
from moeash.exports.building import building
from moeash.exports.export import export_solution
from moeash.exports.output import solution_figure
from moeash.exports.plots import plot_front, plot_hypervolume
from moeash.methods.uniform.options import UniformOptions
from moeash.study.opening import open_study
from moeash.study.plan import Plan, task_of
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.counting import Stored
from tests.digits import digits_spec
from tests.marks import slow

PARTS = {"search": 0, "calibration": 50, "holdout": 100}


class Parts:
    """The digits in three parts; few images of a part that is locked can be read."""

    name = "parts"
    parts = tuple(PARTS)
    n_classes = 10
    locked: str | None = None

    def __init__(self):
        self._digits = digits_source()

    def labels(self, part):
        return self._digits.labels("all")[PARTS[part] : PARTS[part] + 50]

    def images(self, part, indices):
        few = len(indices) <= SAMPLED_IMAGES
        assert few or part != self.locked, f"the images of the {part} split were read"
        return self._digits.images("all", indices + PARTS[part])

    def files(self, part, indices):
        return None


@pytest.fixture
def parts(monkeypatch):
    module = ModuleType("parts_source")
    module.make = Parts
    monkeypatch.setitem(sys.modules, "parts_source", module)
    monkeypatch.setattr(Parts, "locked", None)
    return Parts


def rows(images):
    return {row.numpy().tobytes() for row in images.flatten(1)}


@pytest.fixture
def forwarded():
    """The images that have gone into a network."""
    seen = set()

    def note(module, inputs):
        if type(module).__name__ == "DigitsCNN":
            seen.update(rows(inputs[0].detach()))

    hook = register_module_forward_pre_hook(note)
    yield seen
    hook.remove()


@pytest.mark.parametrize("norms", [*map(slow, ("two_vectors", "remeasured", "folded"))])
def test_exports_do_with_few_images_of_the_search_split(tmp_path, parts, forwarded, norms):
    splits = {part: {"part": part, "rest": True} for part in PARTS}
    study = moeash.run(
        {
            "name": "parts",
            "network": {"source": "digits-cnn"},
            "data": {"source": "parts_source:make", "splits": splits},
            "evaluation": {"threads": 1},
            "method": {"k": [20, 21]},
            "codec": {"norms": norms},
            "search": {"algorithm": "exhaustive", "population": 2},
            "merge": {"trials": 3, "max_drop": 0.5},
        },
        storage=str(tmp_path / "moeash.db"),
        progress=False,
    )
    digits = parts()
    search, holdout = (
        rows(digits.images(part, torch.arange(50).numpy())) for part in ("search", "holdout")
    )
    assert search <= forwarded, "the study itself measures on it"
    forwarded.clear()
    parts.locked = "search"
    place = str(tmp_path / "moeash.db")
    read_again = open_study("parts", place, allow_modules=["parts_source:make"])
    task = task_of(read_again)
    merged = next(s for s in read_again.solutions() if s.record.stage == "merged")
    for solution in (read_again.pick("best"), merged):
        to = tmp_path / f"{solution.id}.moeash"
        report = moeash.export(read_again, to, id=solution.id, progress=False)
        assert report.size_bytes == solution.size_bytes
        with building(read_again) as build:
            shared = build(solution.recipe)
        assert shared.fingerprint() == solution.record.outcome.fingerprint
        for kind in ("codebook", "bytes"):
            solution_figure(task, shared, kind)
    plot_front([read_again], chosen=merged.id)
    plot_hypervolume([read_again])
    assert holdout <= forwarded
    assert len(search & forwarded) == SAMPLED_IMAGES, "they show that the code is the same"
    assert study.front()[0].id == read_again.front()[0].id


# ------------------------------------------------------------------ files that are stored


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study whose solutions count as too dear to make again, and its method."""
    method = Stored(UniformOptions(k=(6, 12)))
    spec = digits_spec(
        search={"algorithm": "exhaustive", "population": 8},
        merge={"trials": 3, "max_drop": 0.5},
    )
    task = replace(spec.task(), method=method)
    storage = SqlStorage(str(tmp_path_factory.mktemp("stored") / "a.db"))
    made = run(Plan(spec, task), storage, InProcessBackend)
    made.task = task
    return made, method


@pytest.fixture
def study(finished):
    return finished[0]


@pytest.fixture
def method(finished):
    """The method of the study, which has compressed nothing since."""
    finished[1].compressed.clear()
    return finished[1]


@pytest.mark.slow
def test_the_file_of_every_evaluation_is_stored_but_of_merges_which_take_no_time(study):
    for solution in study.solutions():
        fingerprint = solution.record.outcome.fingerprint
        if solution.recipe.steps:
            with pytest.raises(StorageError, match="no artifact is stored"):
                study.artifact(fingerprint)
        else:
            assert len(study.artifact(fingerprint)) == solution.size_bytes


def test_a_stored_file_stands_in_for_compressing(study, method, tmp_path):
    merged = [s for s in study.solutions() if s.recipe.steps]
    assert any(isinstance(s.recipe.steps[-1], Merge) for s in merged)
    assert len(merged) < len(study.solutions())
    with building(study) as build:
        for solution in study.solutions():
            shared = build(solution.recipe)
            assert shared.fingerprint() == solution.record.outcome.fingerprint
        solution = merged[-1]
        export_solution(task_of(study), solution, build, tmp_path / "x.moeash")
    assert not method.compressed
    decoded = read(tmp_path / "x.moeash").shared
    assert decoded.fingerprint() == solution.record.outcome.fingerprint


def test_what_a_run_writes_begins_with_stored_files_too(study, method, tmp_path):
    built = []

    def finished(stored, build):
        built.extend(build(solution.recipe).fingerprint() for solution in stored.solutions())

    run(Plan(study.spec, study.task), study.storage, InProcessBackend, finished=finished)
    assert built == [s.record.outcome.fingerprint for s in study.solutions()]
    assert not method.compressed
