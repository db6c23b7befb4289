"""Folding BatchNorms in a study: every method, resumed, exported, and the module handed back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import moeash
from moeash.backends.inprocess import InProcessBackend
from moeash.core.kept import Keeping
from moeash.core.solutions.recipe import Recipe
from moeash.errors import InputError, StudyExistsError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job
from moeash.networks.loading.sources import load_network
from moeash.study.plan import task_of
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.digits import digits_plan, digits_spec, merged
from tests.marks import few_quick

FOLD = {"codec": {"norms": "folded"}}
CALIBRATED = {
    "data": {"splits": {"calibration": {"part": "all", "count": 100, "seed": 0}}},
    **FOLD,
}
METHODS = {
    "uniform": ({"name": "uniform", "k": [2, 64]}, {"k": 40}),
    "feedback": (
        {"name": "feedback", "k": [4, 64], "images": 100, "sketches": 1},
        {"k": 40, "rate": 0.02},
    ),
    "gpfq": ({"name": "gpfq", "k": None, "levels": [1, 16], "images": 100}, {"levels": 8}),
}
NOTHING = Archive(("size_bytes",))


def evaluator(method="uniform", module=None, **changes):
    table, _ = METHODS[method]
    task = digits_spec(**merged({"method": table} | CALIBRATED, changes)).task()
    return Evaluator(replace(task, module=module))


def job(method="uniform"):
    return Job(Recipe.of(METHODS[method][1]))


def state_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", few_quick(METHODS, "uniform", "feedback"))
def test_every_method_leaves_norms_that_only_add(method):
    made = evaluator(method)
    assert (
        made.compressor.folding.network.folded == {"bn1", "bn2"}
        and not made.compressor.folding.left
    )
    outcome = made.evaluate(job(method), NOTHING)
    assert outcome.metric > made.assessment.baseline - 0.1
    decoded = made.compressor.build(job(method).recipe).decoded()
    for name in made.compressor.folding.network.folded:
        assert (decoded[f"{name}.weight"] == 1).all()
        assert len(np.unique(decoded[f"{name}.running_var"])) == 1
    made.close()


@pytest.mark.parametrize("method", METHODS)
def test_norms_stored_as_they_are_keep_their_factor_of_one(method):
    task = digits_spec(**merged({"method": METHODS[method][0]}, CALIBRATED)).task()
    made = Evaluator(replace(task, keeping=Keeping("float16")))
    decoded = made.compressor.build(job(method).recipe).decoded()
    for name in made.compressor.folding.network.folded:
        variance = decoded[f"{name}.running_var"].astype(np.float32)
        slope = decoded[f"{name}.weight"] / np.sqrt(variance + np.float32(1e-5))
        assert np.allclose(slope, 1, atol=1e-3)  # float16 has rounded the variance
    made.close()


def test_the_baseline_is_that_of_the_network_as_it_was_given():
    given, folded = Evaluator(digits_spec().task()), evaluator()
    assert folded.assessment.baseline == given.assessment.baseline
    assert np.array_equal(folded.assessment.order, given.assessment.order)
    assert folded.network_fingerprint == given.network_fingerprint
    shared, plain = folded.compressor.build(job().recipe), given.compressor.build(job().recipe)
    assert shared.original_bytes == plain.original_bytes
    assert shared.fingerprint() != plain.fingerprint()


def test_restoring_and_closing_bring_the_given_weights_back():
    module = load_network("digits-cnn")
    before = state_of(module)
    made = evaluator(module=module)
    assert not same(state_of(module), before)
    made.evaluate(job(), NOTHING)
    made.restore()
    assert same(state_of(module), before)
    assert (
        made.evaluate(job(), NOTHING).fingerprint
        == made.compressor.build(job().recipe).fingerprint()
    )
    made.close()
    assert same(state_of(module), before)


def test_a_method_that_refuses_leaves_the_given_weights():
    module = load_network("digits-cnn")
    before = state_of(module)
    with pytest.raises(InputError, match="gpfq needs calibration images"):
        evaluator("gpfq", module=module, data={"splits": {"calibration": None}})
    assert same(state_of(module), before)


@pytest.mark.parametrize("method", few_quick(METHODS, "uniform"))
def test_an_evaluator_that_adopts_what_another_made_measures_the_same(method):
    first = evaluator(method)
    expected = first.evaluate(job(method), NOTHING)
    table, _ = METHODS[method]
    task = digits_spec(**({"method": table} | CALIBRATED)).task()
    second = Evaluator(task, common=first.common())
    got = second.evaluate(job(method), NOTHING)
    assert replace(got, duration_s=0.0) == replace(expected, duration_s=0.0)
    assert second.network_fingerprint == first.network_fingerprint


def test_images_of_the_search_split_suffice():
    made = evaluator(data={"splits": {"calibration": None}})
    assert made.compressor.folding.network.folded == evaluator().compressor.folding.network.folded


def test_people_are_told_what_was_folded():
    task = digits_spec(**CALIBRATED).task()
    backend = InProcessBackend(task)
    notes = backend.open().notes
    backend.close()
    assert "2 BatchNorms are folded into the layers before them" in notes


# ------------------------------------------------------------------ studies


def study(storage, generations=2, **changes):
    plan = digits_plan(**({"budget": {"generations": generations}} | changes))
    return run(plan, storage, InProcessBackend)


def told(study):
    return [(r.job, r.outcome.metric, r.outcome.sizes, r.outcome.fingerprint) for r in study]


@pytest.mark.slow
def test_a_folded_study_continues_and_its_file_fits_the_unchanged_module(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    study(storage, 1, **FOLD)
    made = study(storage, **FOLD)
    whole = study(SqlStorage(str(tmp_path / "b.db")), **FOLD)
    assert told(made.evaluations()) == told(whole.evaluations())
    assert task_of(made).codec.norms == "folded"
    solution = made.pick("best")
    report = moeash.export(made, tmp_path / "a.moeash", id=solution.id)
    assert report.size_bytes == solution.size_bytes
    module = moeash.load(tmp_path / "a.moeash", into=load_network("digits-cnn", weights="random"))
    split = Evaluator(task_of(made)).splits["search"]
    right = sum(int((module(x).argmax(1) == y).sum()) for x, y in split.batches(40))
    assert right / len(split) == solution.metric


@pytest.mark.slow
def test_folding_is_part_of_what_a_study_is(tmp_path):
    storage = SqlStorage(str(tmp_path / "a.db"))
    study(storage, 1)
    with pytest.raises(StudyExistsError, match=r"codec\.norms: stored 'two_vectors', now 'folded'"):
        study(storage, 1, **FOLD)
