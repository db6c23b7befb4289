from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moeash.study.progress import Silent
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer

import moeash
from moeash.data.splits import load_splits
from moeash.errors import (
    ContainerError,
    EvaluationError,
    ExportError,
    InputError,
    RebuildMismatchError,
    SpecError,
    StudyExistsError,
    StudyNotFoundError,
)
from moeash.evaluation.evaluate import Evaluator
from moeash.networks.sources import load_network
from moeash.study.plan import task_of
from tests.digits import BASE, digits_spec, merged

CHANGES = {
    "merge": {"trials": 6},
    "budget": {"generations": 2},
    "codec": {"kept": "float32"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "a.db"
    return moeash.run(merged(BASE, CHANGES), storage=str(path))


# ------------------------------------------------------------------ run and export


def test_an_exported_file_has_the_size_of_the_front_and_decodes_to_the_measured_network(
    study, tmp_path
):
    front = study.front()
    assert "merged" in {s.record.stage for s in front}
    split = Evaluator(task_of(study)).splits["search"]
    for solution in front:
        path = tmp_path / f"{solution.id}.moeash"
        report = moeash.export(study, path, id=solution.id)
        assert path.stat().st_size == solution.size_bytes == report.size_bytes
        assert report.ratio == solution.ratio
        module = moeash.load_into(load_network("digits-cnn", weights="random"), path)
        right = sum(int((module(x).argmax(1) == y).sum()) for x, y in split.batches(40))
        assert right / len(split) == solution.metric
        arrays = moeash.read(path)
        assert arrays.keys() == module.state_dict().keys()
        assert report.holdout.n_images == 100
        assert report.holdout.top1_low <= report.holdout.top1 <= report.holdout.top1_high
        assert report.as_dict()["holdout_drop"] == report.holdout_float.top1 - report.holdout.top1


def test_two_exports_of_one_solution_are_equal_bytes(study, tmp_path):
    for name in ("a", "b"):
        moeash.export(study, tmp_path / name, pick="knee")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_solution_is_picked_within_the_drop(study, tmp_path):
    report = moeash.export(study, tmp_path / "a", pick="smallest", max_drop=0.02)
    within = [s for s in study.front() if s.drop <= 0.02]
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


def test_an_export_that_fails_keeps_the_existing_file(study, tmp_path):
    path = tmp_path / "kept.moeash"
    path.write_bytes(b"precious")
    task = task_of(study)
    evaluator = Evaluator(task)
    # Other weights than were measured: the search split would not notice, the fingerprint does.
    state = tuple(
        replace(p, values=p.values * np.float32(1.5)) if p.role == "kept" else p
        for p in evaluator.network.state
    )
    object.__setattr__(evaluator.network, "state", state)
    with pytest.raises(RebuildMismatchError, match="rebuilds to other weights than were measured"):
        moeash.export(study, path, evaluator=evaluator)
    evaluator.close()
    assert path.read_bytes() == b"precious"
    with pytest.raises(ExportError, match="cannot"):
        moeash.export(study, tmp_path / "no" / "such" / "folder.moeash", pick="best")
    assert [p.name for p in tmp_path.iterdir()] == ["kept.moeash"]


def test_a_file_that_is_none_is_refused_and_the_module_left_alone(tmp_path):
    (tmp_path / "a.moeash").write_bytes(b"not a container at all")
    module = load_network("digits-cnn")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(ContainerError):
        moeash.load_into(module, tmp_path / "a.moeash")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_study_is_opened_by_name(study):
    opened = moeash.open_study("digits", study.storage.url)
    assert [s.as_dict() for s in opened.front()] == [s.as_dict() for s in study.front()]
    with pytest.raises(StudyNotFoundError, match="nearest: 'digits'"):
        moeash.open_study("digit", study.storage)


def test_the_storage_is_found_by_argument_environment_or_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOEASH_STORAGE", raising=False)
    assert moeash.open_storage().url == "sqlite:///moeash.db"
    monkeypatch.setenv("MOEASH_STORAGE", "elsewhere.db")
    assert moeash.open_storage().url == "sqlite:///elsewhere.db"
    assert moeash.open_storage("given.db").url == "sqlite:///given.db"
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


# ------------------------------------------------------------------ search


class Regressor(nn.Module):
    """Not a classifier: a fixed random map, in training mode, on BatchNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Linear(20, 3))
        self.x = torch.randn(64, 6)

    def forward(self, x):
        return self.net(x)


def likeness():
    """Return a module and how close it stays to what it was, 1 at best."""
    module = Regressor().train()
    with torch.no_grad():
        reference = module.eval()(module.x)
    module.train()

    def closeness(module):
        with torch.no_grad():
            return 1 - float((module(module.x) - reference).square().mean() / reference.var())

    return module, closeness


def search(module, evaluate, **options):
    options = {"method": {"name": "uniform", "k": [2, 40]}, "population": 5, **options}
    options.setdefault("merge", {"trials": 2})
    return moeash.search(module, evaluate=evaluate, generations=2, **options)


def test_any_module_is_searched_by_any_function_and_handed_back(tmp_path):
    module, closeness = likeness()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    calls = []

    def evaluate(module):
        assert not module.training
        calls.append(1)
        return closeness(module)

    study = search(module, evaluate, merge={"trials": 3})
    assert module.training and module.net[1].training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert len(calls) == 1 + len(study.evaluations())  # the float module, then each one once
    assert (study.facts.metric_name, study.facts.baseline) == ("evaluate", 1.0)
    solution = study.pick("best")
    report = moeash.export(study, tmp_path / "a.moeash", id=solution.id)
    assert report.size_bytes == (tmp_path / "a.moeash").stat().st_size == solution.size_bytes
    assert report.holdout is None
    loaded = moeash.load_into(Regressor(), tmp_path / "a.moeash").eval()
    assert closeness(loaded) == solution.metric
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_search_computes_with_the_threads_torch_was_given():
    module, closeness = likeness()
    seen, before = set(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        search(module, lambda module: seen.add(torch.get_num_threads()) or closeness(module))
        assert seen == {torch.get_num_threads()} == {1}
    finally:
        torch.set_num_threads(before)


def test_a_search_that_raises_hands_the_module_back(tmp_path):
    module, closeness = likeness()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    calls = 0

    def evaluate(module):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return closeness(module)

    storage = str(tmp_path / "a.db")
    with pytest.raises(KeyboardInterrupt):
        search(module, evaluate, storage=storage, name="mine")
    assert module.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert moeash.open_study("mine", storage).record.status == "interrupted"
    done = search(module, evaluate, storage=storage, name="mine")
    # Nothing twice: 5 calls then, of which the float module and the interrupted one come again.
    assert calls == len(done.evaluations()) + 3


def test_a_module_that_was_trained_on_is_another_network(tmp_path):
    module, closeness = likeness()
    study = search(module, closeness, storage=str(tmp_path / "a.db"), name="mine")
    with torch.no_grad():
        module.net[0].weight += 0.01
    with pytest.raises(RebuildMismatchError):
        moeash.export(study, tmp_path / "a.moeash")
    assert not (tmp_path / "a.moeash").exists()
    with pytest.raises(StudyExistsError, match="another network's weights"):
        search(module, closeness, storage=str(tmp_path / "a.db"), name="mine")


def test_a_search_with_other_options_is_another_study(tmp_path):
    module, closeness = likeness()
    storage = str(tmp_path / "a.db")
    search(module, closeness, storage=storage, name="mine")
    with pytest.raises(StudyExistsError, match=r"codec\.coder: stored 'ans', now 'huffman'"):
        search(module, closeness, storage=storage, name="mine", coder="huffman")


def test_a_module_searched_from_python_has_a_spec_like_any_other(tmp_path):
    module, closeness = likeness()
    storage = str(tmp_path / "a.db")
    study = search(module, closeness, storage=storage, name="mine", coder="huffman")
    spec = moeash.open_study("mine", storage).spec
    assert spec.is_python and spec.network.source == f"python:{type(module).__qualname__}"
    assert (spec.codec.coder, spec.budget.generations) == ("huffman", study.spec.budget.generations)
    assert spec.fingerprint() == study.facts.fingerprint
    # What is at its default is not stored, so a later moeash with more options continues it.
    assert set(study.facts.spec["codec"]) == {"coder"}


def test_a_stored_search_needs_its_module_to_export(tmp_path):
    module, closeness = likeness()
    storage = str(tmp_path / "a.db")
    search(module, closeness, storage=storage, name="mine")
    with pytest.raises(InputError, match=r"call moeash\.search again"):
        moeash.export(moeash.open_study("mine", storage), tmp_path / "a.moeash")


def test_a_temporary_storage_leaves_with_its_study():
    module, closeness = likeness()
    study = search(module, closeness)
    path = Path(study.storage.url.removeprefix("sqlite:///"))
    assert path.exists()
    del study
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, "search.population is 1, needed an integer"),
        ({"objectives": ["bytes"]}, r"search.objectives\[0\] is 'bytes'"),
        ({"merge": {"trails": 1}}, "unknown key 'merge.trails'; nearest: 'trials'"),
        ({"coder": "zip"}, 'codec.coder .*"ans", "huffman" or "adaptive"'),
        ({"max_drop": -1}, "evaluation.max_drop is -1, needed"),
        ({"method": {"name": "unifrom"}}, "method: no method 'unifrom'; nearest: 'uniform'"),
        ({"method": {"k": [3, 2]}}, "method.k .*low <= high"),
        ({"method": {"name": "feedback", "trellis": 8}}, "needs codec.coder = 'adap"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    module, closeness = likeness()
    with pytest.raises(SpecError, match=message) as caught:
        search(module, closeness, **options)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_searched_is_refused():
    module, closeness = likeness()
    with pytest.raises(InputError, match=r"needs a torch\.nn\.Module, got dict"):
        search(dict(module.state_dict()), closeness)
    with pytest.raises(EvaluationError, match="must be a finite number"):
        search(module, lambda module: float("nan"))
    assert module.training


# ------------------------------------------------------------------ calibration


class Notes(Silent):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


FEEDBACK = {"name": "feedback", "k": [8, 40], "images": 50, "sketches": 1}


def transformer():
    """A classifier with attention and what it is measured with: agreement with itself."""
    torch.manual_seed(0)
    network = VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=4).eval()
    torch.nn.init.normal_(network.heads.head.weight, std=0.1)  # torchvision begins with zeros
    x = torch.randn(100, 3, 16, 16)
    with torch.no_grad():
        expected = network(x).softmax(1)

    def closeness(module):
        with torch.inference_mode():
            return -float((module(x).softmax(1) - expected).square().mean())

    return network, x, closeness


def test_calibration_inputs_make_feedback_better_than_nearest_entries(tmp_path):
    network, x, closeness = transformer()
    told = Notes()
    options = {"candidate": {"k": 20, "rate": 0.02}, "method": FEEDBACK}
    loader = DataLoader(TensorDataset(x, torch.zeros(100)), batch_size=16)
    moeash.compress(network, tmp_path / "ours.moeash", calibration=loader, progress=told, **options)
    assert any("are assigned with feedback from 50 calibration images" in n for n in told.notes)
    assert any(n.startswith("class_token goes to its nearest entries: ") for n in told.notes)
    with pytest.warns(UserWarning, match="no calibration inputs.*pass calibration="):
        moeash.compress(network, tmp_path / "plain.moeash", **options)
    ours, plain = (
        closeness(moeash.load_into(transformer()[0], tmp_path / f"{name}.moeash"))
        for name in ("ours", "plain")
    )
    assert plain < 1.1 * ours < 0


def test_a_refined_file_is_closer_where_the_method_has_a_slower_way(tmp_path):
    network, x, closeness = transformer()
    distances = {False: 0.0, True: 0.0}
    for k in (14, 17, 20, 24):
        for refined in distances:
            file = tmp_path / f"{k}-{refined}.moeash"
            options = {"method": FEEDBACK, "refined": refined, "calibration": x}
            moeash.compress(network, file, candidate={"k": k, "rate": 0.02}, **options)
            distances[refined] -= closeness(moeash.load_into(transformer()[0], file))
    assert 0 < distances[True] < distances[False]
    with pytest.raises(InputError, match="method uniform has no slower way"):
        moeash.compress(network, tmp_path / "a.moeash", candidate={"k": 14}, refined=True)


def test_a_search_with_calibration_is_stored_with_it_and_continues(tmp_path):
    network, x, closeness = transformer()

    def run(inputs, generations=2):
        return moeash.search(
            network,
            evaluate=closeness,
            method=FEEDBACK,
            calibration=inputs,
            generations=generations,
            population=4,
            merge={"trials": 0},
            storage=str(tmp_path / "a.db"),
            name="mine",
        )

    first = run(x)
    again = run(list(x.split(7)))  # the same inputs, given otherwise: the same study
    assert [r.outcome for r in again.evaluations()] == [r.outcome for r in first.evaluations()]
    assert moeash.export(again, tmp_path / "a.moeash").size_bytes > 0
    with pytest.raises(StudyExistsError, match="calibration"):
        run(x + 1)


def test_a_method_that_looks_at_no_inputs_refuses_some():
    module, closeness = likeness()
    with pytest.raises(InputError, match="uniform looks at no inputs; leave calibration out"):
        search(module, closeness, calibration=module.x)


# ------------------------------------------------------------------ kept tensors


@pytest.mark.parametrize("norms", ["two_vectors", "as_they_are"])
def test_a_compressed_network_is_the_same_function_with_two_vectors(tmp_path, norms):
    module = load_network("digits-cnn").eval()
    x = torch.rand(5, 1, 8, 8)
    path = tmp_path / "x.moeash"
    moeash.compress(module, path, candidate={"k": 4096}, kept="float32", norms=norms)
    decoded = moeash.read(path)
    rewritten = [name for name in decoded if name.endswith("running_mean")]
    assert all(decoded[name].any() == (norms == "as_they_are") for name in rewritten)
    assert rewritten
    expected = module(x)
    moeash.load_into(module, path)
    assert (module(x) - expected).abs().max() < 1e-2 * expected.abs().max()


def test_two_vectors_make_the_file_smaller(tmp_path):
    module = load_network("digits-cnn")
    sizes = [
        moeash.compress(module, tmp_path / "x.moeash", candidate={"k": 16}, norms=norms).total
        for norms in ("two_vectors", "as_they_are")
    ]
    assert sizes[0] < sizes[1] - 90  # of 192 float16 values 96 are constants now


@pytest.mark.parametrize("method", [{"name": "uniform", "k": [2, 4096]}, FEEDBACK])
def test_a_network_compressed_with_folded_norms_is_the_same_function(tmp_path, method):
    module = load_network("digits-cnn").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    told = Notes()
    moeash.compress(
        module,
        tmp_path / "x.moeash",
        candidate={"k": 4096} if method["name"] == "uniform" else {"k": 500, "rate": 0.02},
        method=method,
        calibration=x,
        kept="float32",
        norms="folded",
        progress=told,
    )
    assert "2 BatchNorms are folded into the layers before them" in told.notes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    decoded = moeash.read(tmp_path / "x.moeash")
    assert (decoded["bn1.weight"] == 1).all() and not decoded["bn2.running_mean"].any()
    with torch.inference_mode():
        expected = module(x)
        moved = (moeash.load_into(module, tmp_path / "x.moeash")(x) - expected).abs().max()
    assert moved < 3e-2 * expected.abs().max()


def test_a_search_with_folded_norms_hands_the_module_back_and_is_another_study(tmp_path):
    module = load_network("digits-cnn").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        classes = module(x).argmax(1)

    def agreement(module):
        with torch.inference_mode():
            return float((module(x).argmax(1) == classes).float().mean())

    def run(**options):
        return moeash.search(
            module,
            evaluate=agreement,
            name="mine",
            storage=str(tmp_path / "a.db"),
            population=4,
            generations=1,
            merge={"trials": 0},
            **options,
        )

    study = run(calibration=x, norms="folded")
    assert study.facts.baseline == 1.0
    report = moeash.export(study, tmp_path / "a.moeash", pick="best")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (moeash.read(tmp_path / "a.moeash")["bn1.weight"] == 1).all()
    measured = agreement(moeash.load_into(load_network("digits-cnn"), tmp_path / "a.moeash"))
    assert measured == report.solution["metric"]
    with pytest.raises(StudyExistsError, match=r"codec\.norms"):
        run()


def test_norms_measured_again_bring_a_coarse_network_closer(tmp_path):
    module = load_network("digits-cnn").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x, _ = next(load_splits(digits_spec().data)["search"].batches(200))
    with torch.inference_mode():
        expected = module(x).softmax(1)

    def closeness(module):
        with torch.inference_mode():
            return -float((module(x).softmax(1) - expected).square().mean())

    found, told = {}, Notes()
    for again in (False, True):
        path = tmp_path / f"{again}.moeash"
        moeash.compress(
            module,
            path,
            candidate={"k": 10},
            calibration=x if again else None,
            norms="remeasured" if again else "two_vectors",
            progress=told,
        )
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        found[again] = closeness(moeash.load_into(load_network("digits-cnn").eval(), path))
    assert told.notes == [
        "the statistics of 2 BatchNorms are measured again on 200 calibration images"
    ]
    assert found[False] < 1.5 * found[True] < 0
    study = moeash.search(
        module,
        evaluate=closeness,
        method={"name": "uniform", "k": [10, 10]},
        calibration=x,
        norms="remeasured",
        generations=1,
        merge={"trials": 0},
    )
    assert [s.metric for s in study.front()] == [found[True]]
    assert study.facts.baseline == 0 > study.facts.remeasured_baseline
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_norms_are_not_measured_again_without_inputs(tmp_path):
    options = {"candidate": {"k": 4}, "norms": "remeasured"}
    module = load_network("digits-cnn")
    with pytest.raises(InputError, match="measuring BatchNorms again takes calibration images"):
        moeash.compress(module, tmp_path / "x.moeash", **options)
    assert list(tmp_path.iterdir()) == []


def test_folding_norms_without_inputs_says_what_is_missing(tmp_path):
    module = load_network("digits-cnn")
    with pytest.raises(InputError, match=r"folding BatchNorms .* pass calibration="):
        moeash.compress(module, tmp_path / "x.moeash", candidate={"k": 4}, norms="folded")
    with pytest.raises(InputError, match=r"folding BatchNorms .* pass calibration="):
        moeash.search(module, evaluate=lambda module: 0.0, norms="folded")
    assert list(tmp_path.iterdir()) == []


def test_without_images_nothing_can_be_measured(tmp_path):
    module = load_network("digits-cnn")
    with pytest.raises(InputError, match="kept = 'auto' measures"):
        moeash.compress(module, tmp_path / "x.moeash", candidate={"k": 4}, kept="auto")
    with pytest.raises(SpecError, match="kept = 'auto' measures"):
        moeash.search(module, evaluate=lambda module: 0.0, kept="auto")
    assert list(tmp_path.iterdir()) == []
