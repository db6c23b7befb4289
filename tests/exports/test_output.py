"""What a run leaves behind, whatever becomes of its pick."""

import json
from dataclasses import replace

import pytest

from moeash.api.studies import run_with_output
from moeash.core.kept import Keeping
from moeash.core.solutions.recipe import Recipe
from moeash.core.solutions.variables import Integer
from moeash.errors import (
    EvaluationError,
    ExportError,
    RebuildMismatchError,
    StudyNotFoundError,
)
from moeash.evaluation.loading import compressor_of
from moeash.exports.building import building
from moeash.exports.output import solution_figure, write_output
from moeash.study.opening import open_storage, open_study
from moeash.study.plan import task_of
from moeash.study.spec.output import OutputOptions
from moeash.study.spec.reading import load_spec
from tests.digits import digits_spec


@pytest.fixture(scope="module")
def study(tiny):
    return open_study("tiny", tiny.storage)


@pytest.fixture(scope="module")
def build(study):
    with building(study) as build:
        yield build


def written(folder):
    return {path.name for path in folder.iterdir()}


def front_json(folder):
    return json.loads((folder / "front.json").read_text())


def test_a_pick_that_nothing_meets_leaves_the_front_and_its_pictures(study, build, tmp_path):
    options = OutputOptions(folder=str(tmp_path), max_bytes=100)
    output = write_output(study, options, task_of(study), build)
    assert output.report is None
    assert written(tmp_path) == {"front.json", "front.png", "hypervolume.png"}
    assert {path.rpartition("/")[2] for path in output.paths} == written(tmp_path)
    summary = front_json(tmp_path)
    assert summary["exported"] is None
    assert [row["id"] for row in summary["front"]] == [s.id for s in study.front()]
    least = study.front()[0]
    said = str(output.refusal)
    assert f"no solution within 100 bytes; the smallest one, id {least.id}, takes" in said
    assert f"{least.size_bytes:,} at a drop of {least.drop:.4f}" in said


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["before it is built", "before it is written"])
def test_an_export_that_fails_leaves_the_front_and_its_pictures(study, build, tmp_path, fails):
    other = study.front()[-1].recipe

    def building_another(recipe):
        if fails == "before it is built":
            raise EvaluationError("its artifact is damaged")
        return build(other)

    options = OutputOptions(folder=str(tmp_path))
    with pytest.raises(EvaluationError if fails == "before it is built" else RebuildMismatchError):
        write_output(study, options, task_of(study), building_another)
    assert {"front.json", "front.png", "hypervolume.png"} <= written(tmp_path)
    assert not list(tmp_path.glob("*.moeash"))
    summary = front_json(tmp_path)
    assert summary["exported"] is None
    assert [row["id"] for row in summary["front"]] == [s.id for s in study.front()]


@pytest.mark.slow
def test_a_refusal_says_which_bound_of_the_space_was_in_the_way(study, build, tmp_path):
    k = study.front()[0].recipe.candidate["k"]
    space = [Integer("k", k, 99).as_dict()]
    study.record = replace(study.record, facts=replace(study.facts, space=space))
    options = OutputOptions(folder=str(tmp_path), max_bytes=100)
    output = write_output(study, options, task_of(study), build)
    bound = f"; it has k = {k}, the lowest allowed, so a wider search may find another"
    assert str(output.refusal).endswith(bound)


@pytest.mark.slow
@pytest.mark.parametrize(("pick", "max_drop"), [("best", None), ("knee", 0.5)])
def test_a_rerun_with_another_pick_is_recorded_as_such(tiny, tmp_path, pick, max_drop):
    wanted = {"folder": str(tmp_path), "pick": pick}
    if max_drop is not None:
        wanted["max_drop"] = max_drop
    spec = load_spec(tiny.spec, [f"output.{k}={json.dumps(v)}" for k, v in wanted.items()])
    study, output = run_with_output(spec, storage=tiny.storage, progress=False)
    summary = front_json(tmp_path)
    assert {"pick": "smallest"} | summary["spec"]["output"] == wanted
    chosen = study.pick(pick, max_drop=max_drop).id
    assert summary["exported"]["solution"]["id"] == chosen == output.report.solution["id"]
    assert output.refusal is None


@pytest.mark.parametrize("place", ["a file", "below a file"])
def test_a_folder_that_cannot_be_written_is_found_before_the_search(tiny, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" if place == "a file" else tmp_path / "file" / "results"
    spec = load_spec(tiny.spec, [f'output.folder="{folder}"'])
    storage = open_storage(str(tmp_path / "moeash.db"))
    with pytest.raises(ExportError, match=r"cannot write to the output folder .*output\.folder="):
        run_with_output(spec, storage=storage, progress=False)
    with pytest.raises(StudyNotFoundError):
        storage.study("tiny")
    assert (tmp_path / "file").read_text() == "mine"
    storage.close()


@pytest.mark.parametrize("file", ["front.json", "front.png", "bytes.png", "tiny.moeash"])
def test_what_is_in_the_place_of_a_file_is_found_before_the_search(tiny, tmp_path, file):
    (tmp_path / "results" / file).mkdir(parents=True)
    spec = load_spec(tiny.spec, [f'output.folder="{tmp_path / "results"}"'])
    with pytest.raises(ExportError, match=f"{file}': it is a folder"):
        run_with_output(spec, storage=tmp_path / "a.db", progress=False)
    assert not (tmp_path / "a.db").exists()
    assert [path.name for path in (tmp_path / "results").iterdir()] == [file]


def test_a_study_that_measured_nothing_leaves_its_record(make_study, study, build, tmp_path):
    empty = make_study([(None, 50_000)], name="empty", volumes=(0.0,))
    folder = tmp_path / "out"
    output = write_output(empty, OutputOptions(folder=str(folder)), task_of(study), build)
    assert written(folder) == {"front.json", "hypervolume.png"}
    assert "no wanted solution yet" in str(output.refusal)
    assert front_json(folder)["front"] == []


@pytest.mark.slow
def test_pictures_of_a_method_that_rescales_rows_leave_the_float_weights_out():
    calibration = {"splits": {"calibration": {"part": "all", "count": 60, "seed": 0}}}
    left_out = {}
    for balance in (0.25, 0.0):
        options = {"name": "feedback", "images": 60, "sketches": 1, "balance": balance}
        spec = digits_spec(method={"k": [4, 40], **options}, data=calibration)
        task = replace(spec.task(), keeping=Keeping("float16"), n_threads=1)
        with compressor_of(task) as compressor:
            shared = compressor.build(Recipe.of({"k": 12, "rate": 0.05}))
        said = [
            text.get_text() for text in solution_figure(task, shared, "codebook").legends[0].texts
        ]
        left_out[balance] = "left out" in said[0]
    assert left_out == {0.25: True, 0.0: False}
