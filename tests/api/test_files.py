import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import moeash
from moeash.data.splits import load_splits
from moeash.errors import (
    ContainerError,
    ExportError,
    InputError,
    RebuildMismatchError,
    StudyNotFoundError,
)
from moeash.networks.loading.sources import load_network
from tests.digits import BASE, merged

CHANGES = {
    "merge": {"trials": 6},
    "budget": {"generations": 2},
    "codec": {"kept": "float32"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "a.db"
    return moeash.run(merged(BASE, CHANGES), storage=str(path))


@pytest.mark.slow
def test_an_exported_file_has_the_size_of_the_front_and_decodes_to_the_measured_network(
    study, tmp_path
):
    front = study.front()
    assert "merged" in {s.record.stage for s in front}
    split = load_splits(study.spec.data)["search"]
    for solution in front:
        path = tmp_path / f"{solution.id}.moeash"
        report = moeash.export(study, path, id=solution.id)
        assert path.stat().st_size == solution.size_bytes == report.size_bytes
        assert report.ratio == solution.ratio
        module = moeash.load(path, into=load_network("digits-cnn", weights="random"))
        right = sum(int((module(x).argmax(1) == y).sum()) for x, y in split.batches(40))
        assert right / len(split) == solution.metric
        arrays = moeash.read(path)
        assert arrays.keys() == module.state_dict().keys()
        assert report.holdout.n_images == 100
        assert report.holdout.top1_low <= report.holdout.top1 <= report.holdout.top1_high
        assert report.as_dict()["holdout_drop"] == report.holdout_float.top1 - report.holdout.top1


@pytest.mark.slow
def test_two_exports_of_one_solution_are_equal_bytes(study, tmp_path):
    for name in ("a", "b"):
        moeash.export(study, tmp_path / name, pick="knee")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_solution_is_picked_within_the_drop(study, tmp_path):
    report = moeash.export(study, tmp_path / "a", pick="smallest", max_drop=0.02)
    within = [s for s in study.front() if s.is_within(0.02)]
    assert report.solution["id"] == min(within, key=lambda s: s.size_bytes).id
    with pytest.raises(InputError, match="no solution within a drop of -1"):
        moeash.export(study, tmp_path / "b", max_drop=-1)
    assert not (tmp_path / "b").exists()


def test_a_number_that_is_no_solution_is_refused(study, tmp_path):
    stopped = next(r for r in study.evaluations() if r.outcome.status == "stopped")
    with pytest.raises(InputError, match=f"evaluation {stopped.number} .* was stopped"):
        moeash.export(study, tmp_path / "a", id=stopped.number)
    with pytest.raises(InputError, match="has no evaluation 9999"):
        moeash.export(study, tmp_path / "a", id=9999)


@pytest.fixture
def study_of_a_lost_checkpoint(tmp_path_factory):
    """A study whose checkpoint has other kept tensors by now: no image would notice."""
    folder = tmp_path_factory.mktemp("lost")
    state, path = load_network("digits-cnn").state_dict(), folder / "c.safetensors"
    save_file(state, path)
    plain = merged(BASE, {"network": {"checkpoint": str(path)}, "budget": {"generations": 1}})
    study = moeash.run(plain, storage=str(folder / "a.db"))
    save_file(state | {"fc2.bias": state["fc2.bias"] * 1.5}, path)
    return study


def test_an_export_that_fails_keeps_the_existing_file(study, study_of_a_lost_checkpoint, tmp_path):
    path = tmp_path / "kept.moeash"
    path.write_bytes(b"precious")
    with pytest.raises(RebuildMismatchError, match="rebuilds to other weights than were measured"):
        moeash.export(study_of_a_lost_checkpoint, path, force=True)
    assert path.read_bytes() == b"precious"
    with pytest.raises(InputError, match="exists; choose another name, or replace it with force"):
        moeash.export(study, path, pick="best")
    assert path.read_bytes() == b"precious"
    with pytest.raises(ExportError, match="cannot"):
        moeash.export(study, tmp_path / "no" / "such" / "folder.moeash", pick="best")
    assert [p.name for p in tmp_path.iterdir()] == ["kept.moeash"]


def test_a_file_that_is_none_is_refused_and_the_module_left_alone(tmp_path):
    (tmp_path / "a.moeash").write_bytes(b"not a container at all")
    module = load_network("digits-cnn")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(ContainerError):
        moeash.load(tmp_path / "a.moeash", into=module)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_study_is_opened_by_name(study):
    opened = moeash.open_study("digits", study.storage.url)
    assert [s.as_dict() for s in opened.front()] == [s.as_dict() for s in study.front()]
    with pytest.raises(StudyNotFoundError, match="nearest: 'digits'"):
        moeash.open_study("digit", study.storage)


def test_the_storage_is_found_by_argument_environment_or_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOEASH_STORAGE", raising=False)
    assert moeash.open_storage().url == str(tmp_path / "moeash.db")
    monkeypatch.setenv("MOEASH_STORAGE", "elsewhere.db")
    assert moeash.open_storage().url == str(tmp_path / "elsewhere.db")
    assert moeash.open_storage("given.db").url == str(tmp_path / "given.db")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere.db", "given.db", "moeash.db"]


def test_a_data_frame_has_one_row_an_evaluation(study):
    frame = study.to_dataframe()
    assert len(frame) == len(study.evaluations())
    assert set(frame.id[frame.on_front]) == {s.id for s in study.front()}
    stopped = frame[frame.status == "stopped"]
    assert stopped.metric.isna().all() and stopped.bound.notna().all()
    whole = frame[frame.status == "complete"]
    np.testing.assert_array_equal(whole.ratio, study.facts.original_bytes / whole.size_bytes)
    np.testing.assert_array_equal(whole["drop"], study.facts.baseline - whole.metric)
    assert {"k", "generation", "parent", "entries", "bits_per_weight"} <= set(frame.columns)
