import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import moeash
from moeash.codec import container
from moeash.data.arrays import digits_source
from moeash.data.splits import load_splits
from moeash.errors import ContainerError, ExportError, InputError, RebuildMismatchError
from moeash.evaluation.holdout import wilson_interval
from moeash.exports import export as exports
from moeash.exports.building import building
from moeash.exports.files import load
from moeash.networks.loading.sources import load_network
from moeash.study.opening import open_study
from moeash.study.plan import task_of


@pytest.fixture(scope="module")
def study(tiny):
    return open_study("tiny", tiny.storage)


@pytest.fixture(scope="module")
def task(study):
    return task_of(study)


@pytest.fixture(scope="module")
def build(study):
    with building(study) as build:
        yield build


@pytest.fixture
def target(tmp_path) -> Path:
    """A file that is there already and must survive whatever fails."""
    path = tmp_path / "x.moeash"
    path.write_bytes(b"what was there before")
    return path


def kept(target: Path) -> bool:
    files = list(target.parent.iterdir())
    return files == [target] and target.read_bytes() == b"what was there before"


def test_the_front_says_the_bytes_of_every_file_exactly(study, task, build, tmp_path):
    for solution in study.front():
        report = exports.export_solution(task, solution, build, tmp_path / "x.moeash")
        assert (tmp_path / "x.moeash").stat().st_size == report.size_bytes == solution.size_bytes
        assert report.ratio == solution.ratio


def test_the_file_decodes_to_the_weights_that_were_measured(study, task, build, target):
    solution = study.pick("knee")
    exports.export_solution(task, solution, build, target)
    decoded = container.read(target).shared
    assert decoded.fingerprint() == solution.record.outcome.fingerprint


def test_the_holdout_is_measured_on_the_decoded_file(study, task, build, target):
    report = exports.export_solution(task, study.pick("smallest"), build, target)
    split = load_splits(task.data)["holdout"]
    module = load_network("digits-cnn").eval()
    load(target, into=module)
    with torch.inference_mode():
        right = sum(int((module(x).argmax(1) == y).sum()) for x, y in split.batches(100))
    assert report.holdout is not None
    assert report.holdout.top1 == right / 100
    assert (report.holdout.top1_low, report.holdout.top1_high) == wilson_interval(right, 100)
    assert report.holdout_drop == pytest.approx(report.holdout_float.top1 - right / 100)


def test_an_export_leaves_the_module_as_it_was(tmp_path):
    module = load_network("digits-cnn").train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    study = moeash.search(
        module,
        evaluate=lambda module: float(module.fc1.weight.detach().mean()),
        method={"k": [8, 9]},
        population=2,
        generations=1,
        progress=False,
    )
    moeash.export(study, tmp_path / "x.moeash", progress=False)
    assert all(part.training for part in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_solution_that_rebuilds_to_other_weights_is_refused(study, task, build, target):
    solution = study.pick("smallest")
    outcome = dataclasses.replace(solution.record.outcome, fingerprint="0" * 32)
    altered = dataclasses.replace(
        solution, record=dataclasses.replace(solution.record, outcome=outcome)
    )
    with pytest.raises(RebuildMismatchError, match="rebuilds to other weights than were measured"):
        exports.export_solution(task, altered, build, target)
    assert kept(target)


def test_a_size_the_front_did_not_promise_is_refused(study, task, build, target):
    solution = study.pick("smallest")
    sizes = dataclasses.replace(solution.record.outcome.sizes, size_bytes=1)
    outcome = dataclasses.replace(solution.record.outcome, sizes=sizes)
    altered = dataclasses.replace(
        solution, record=dataclasses.replace(solution.record, outcome=outcome)
    )
    with pytest.raises(ExportError, match="the front says 1"):
        exports.export_solution(task, altered, build, target)
    assert kept(target)


def test_a_failing_holdout_keeps_the_existing_file(study, task, build, target):
    def broken(module, inputs):
        raise RuntimeError("no image today")

    module = load_network("digits-cnn")
    module.register_forward_pre_hook(broken)
    broken_task = dataclasses.replace(task, module=module)
    with pytest.raises(RuntimeError, match="no image today"):
        exports.export_solution(broken_task, study.pick("smallest"), build, target)
    assert kept(target)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:]]
)
def test_bytes_the_disk_altered_never_get_the_name(study, task, build, target, monkeypatch, damage):
    read = Path.read_bytes

    def disk(path):
        data = read(path)
        return damage(data) if path.suffix == ".tmp" else data

    monkeypatch.setattr(Path, "read_bytes", disk)
    with pytest.raises(ExportError, match="does not decode"):
        exports.export_solution(task, study.pick("smallest"), build, target)
    monkeypatch.undo()
    assert kept(target)


def test_the_holdout_is_not_touched_before_the_export(tmp_path, monkeypatch):
    read: list[tuple[str, int]] = []

    class Recorded:
        """The digits, writing down which part images are read from."""

        name = "recorded"
        parts = ("search", "holdout")
        n_classes = 10

        def __init__(self):
            self._digits = digits_source()

        def labels(self, part):
            return self._digits.labels("all")[:50]

        def images(self, part, indices):
            read.append((part, len(indices)))
            return self._digits.images("all", indices)

        def files(self, part, indices):
            return None

    module = ModuleType("recorded_source")
    module.make = Recorded
    monkeypatch.setitem(sys.modules, "recorded_source", module)
    study = moeash.run(
        {
            "name": "recorded",
            "network": {"source": "digits-cnn"},
            "data": {
                "source": "recorded_source:make",
                "splits": {
                    "search": {"part": "search", "range": [0, 50]},
                    "holdout": {"part": "holdout", "range": [0, 50]},
                },
            },
            "evaluation": {"threads": 1},
            "method": {"k": [8, 9]},
            "search": {"algorithm": "exhaustive", "population": 2},
            "merge": {"trials": 1},
        },
        storage=str(tmp_path / "moeash.db"),
    )
    assert {part for part, _ in read} == {"search"}
    moeash.export(study, tmp_path / "x.moeash")
    assert {part for part, _ in read} == {"search", "holdout"}


def test_an_id_beside_a_drop_is_refused_because_one_would_be_ignored(study, target):
    with pytest.raises(InputError, match="leave one out"):
        moeash.export(study, target, id=1, max_drop=0.1)
    with pytest.raises(InputError, match="no pick 'nee'; nearest: 'knee'"):
        moeash.export(study, target, pick="nee", force=True)
    assert kept(target)


def test_a_missing_container_is_no_input_error():
    with pytest.raises(ContainerError, match=r"cannot read 'nowhere' \(from"):
        container.read("nowhere")
