from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.errors import (
    EvaluationError,
    InputError,
    RebuildMismatchError,
    SpecError,
    StudyExistsError,
)
from moeash.study import admission
from moeash.study.events import Evaluated
from moeash.study.spec import reading
from moeash.study.summary import summary_of
from tests.api.modules import HUFFMAN, Regressor, likeness, search
from tests.digits import BASE, merged
from tests.study.spec.test_identity import LaterSpec

CUDA = {"device": "cuda"}


def test_any_module_is_searched_by_any_function_and_handed_back(tmp_path):
    module, closeness = likeness()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    calls = []

    def evaluate(module):
        assert not module.training
        calls.append(1)
        return closeness(module)

    study = search(module, evaluate, spec={"merge": {"trials": 3}})
    assert module.training and module.net[1].training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    # The float module, its norms as two vectors, then each one once.
    assert len(calls) == 2 + len(study.evaluations())
    assert (study.facts.metric_name, study.facts.baseline) == ("evaluate", 1.0)
    solution = study.pick("best")
    report = moeash.export(study, tmp_path / "a.moeash", id=solution.id)
    assert report.size_bytes == (tmp_path / "a.moeash").stat().st_size == solution.size_bytes
    assert report.holdout is None
    loaded = moeash.load(tmp_path / "a.moeash", into=Regressor()).eval()
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


@pytest.mark.slow
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
    # 5 calls then, of which the float module, its norms as two vectors and the interrupted one come
    # again; how norms are stored is known the second time. One of those that were measured is
    # measured again: it shows whether the function is the same.
    assert calls == len(done.evaluations()) + 5


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
        search(module, closeness, storage=storage, name="mine", spec=HUFFMAN)


def test_a_module_searched_from_python_has_a_spec_like_any_other(tmp_path):
    module, closeness = likeness()
    storage = str(tmp_path / "a.db")
    study = search(module, closeness, storage=storage, name="mine", spec=HUFFMAN)
    spec = moeash.open_study("mine", storage).spec
    assert spec.is_python and spec.network.source == f"python:{type(module).__qualname__}"
    assert (spec.codec.coder, spec.budget.generations) == ("huffman", study.spec.budget.generations)
    assert spec.fingerprint() == study.facts.fingerprint
    # What is at its default is not stored, so a later moeash with more options continues it.
    assert set(study.facts.spec["codec"]) == {"coder"}


@pytest.mark.slow
def test_a_search_goes_on_under_a_moeash_with_one_more_option(tmp_path, monkeypatch):
    module, closeness = likeness()
    calls = []

    def evaluate(module):
        calls.append(1)
        return closeness(module)

    storage = str(tmp_path / "a.db")
    first = search(module, evaluate, storage=storage, name="mine", spec=HUFFMAN)
    for place in (reading, admission):
        monkeypatch.setattr(place, "StudySpec", LaterSpec)
    del calls[:]
    again = search(module, evaluate, storage=storage, name="mine", spec=HUFFMAN)
    assert again.record.id == first.record.id
    assert len(calls) == 2, "the float module, and one candidate to see that all is as it was"
    other = merged(HUFFMAN, {"codec": {"checksum": True}})
    with pytest.raises(StudyExistsError, match=r"codec\.checksum: stored False, now True"):
        search(module, evaluate, storage=storage, name="mine", spec=other)


@pytest.mark.slow
def test_a_search_can_be_listed_and_tells_the_time_left_when_it_is_continued(tmp_path):
    module, closeness = likeness()
    storage, left = str(tmp_path / "a.db"), []

    def watch(event):
        if isinstance(event, Evaluated) and not event.stored_before and event.record.number > 12:
            left.append(summary_of(moeash.open_study("mine", storage))["search_left_s"])

    options = {
        "evaluate": closeness,
        "storage": storage,
        "name": "mine",
        "population": 5,
        "method": {"k": [2, 40]},
        "spec": {"merge": {"trials": 0}},
    }
    short = moeash.search(module, generations=2, **options)
    long = moeash.search(module, generations=5, progress=watch, **options)
    assert [s.record.facts.name for s in moeash.open_storage(storage).summaries()] == ["mine"]
    assert long.record.id == short.record.id and len(long.generations()) == 5
    assert left and all(seconds > 0 for seconds in left)


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


DATA = {"source": "digits", "splits": {"search": {"part": "all", "count": 9}}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, "search.population is 1, needed an integer"),
        ({"spec": {"search": {"objectives": ["bytes"]}}}, r"search.objectives\[0\] is 'bytes'"),
        ({"spec": {"merge": {"trails": 1}}}, "unknown key 'merge.trails'; nearest: 'trials'"),
        ({"spec": {"codec": {"coder": "zip"}}}, "codec.coder is 'zip', needed .*adaptive"),
        ({"spec": {"codec": 3}}, "codec is 3, needed a table"),
        ({"spec": {"data": DATA}}, "is measured by a function; leave out data"),
        ({"spec": {"backend": {"kind": "ray"}}}, "stays in its process; leave out backend"),
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


# ------------------------------------------------------------------ what a search spends


def perceptron():
    """A small network without a data set, and inputs to compare its outputs on."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(256, 16)
    with torch.no_grad():
        return module, x, module(x)


@pytest.mark.slow
def test_with_the_defaults_merging_costs_less_than_the_search():
    module, x, expected = perceptron()
    classes = expected.argmax(1)

    def agreement(module):
        with torch.no_grad():
            return float((module(x).argmax(1) == classes).float().mean())

    study = moeash.search(module, evaluate=agreement)
    stages = Counter(record.stage for record in study.evaluations())
    assert 0 < stages["merged"] < stages["search"]


@pytest.mark.slow
def test_a_metric_below_zero_has_a_hypervolume_that_grows_and_does_not_end_the_search():
    module, x, expected = perceptron()

    def negative_loss(module):
        with torch.no_grad():
            return -float((module(x) - expected).square().mean())

    budget = {"budget": {"no_gain": 2}, "merge": {"trials": 0}}
    study = moeash.search(module, evaluate=negative_loss, generations=6, spec=budget)
    volumes = [generation.hypervolume for generation in study.generations()]
    assert max(solution.metric for solution in study.solutions()) < 0
    assert volumes == sorted(volumes) and 0 < volumes[0] < volumes[-1]
    assert study.record.ending == "generations" and len(volumes) == 6


def test_values_as_notebooks_have_them_are_taken_and_stored_as_plain_ones(tmp_path):
    study = search(
        torch.nn.Linear(8, 4),
        lambda module: np.float32(1.0),
        seed=np.int64(3),
        max_drop=np.float32(0.5),
        population=np.int32(4),
        method="uniform",
        storage=tmp_path / "a?1.db",
        spec={"network": {"include": "weight"}},
    )
    assert (tmp_path / "a?1.db").exists()
    stored = study.facts.spec
    assert (stored["seed"], type(stored["seed"])) == (3, int)
    assert stored["network"]["include"] == ["weight"]


def test_a_candidate_is_of_numbers_whoever_made_them(tmp_path):
    module, path = torch.nn.Linear(8, 4), tmp_path / "a.moeash"
    moeash.compress(module, path, candidate={"k": np.int32(4)}, seed=np.uint8(1), progress=False)
    with pytest.raises(InputError, match="candidate has k = '4', needed a whole number"):
        moeash.compress(module, path, candidate={"k": "4"}, force=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(tmp_path):
    told = []
    for run in (
        lambda: search(torch.nn.Linear(8, 4), lambda m: 1.0, spec={"evaluation": CUDA}),
        lambda: moeash.run(
            BASE | {"evaluation": CUDA}, storage=tmp_path / "a.db", progress=told.append
        ),
    ):
        with pytest.raises(InputError, match=r"evaluation\.device is 'cuda', which torch cannot"):
            run()
    assert not any("images" in str(event) for event in told)


@pytest.mark.parametrize("device", ["gpu", "CPU", "cuda:x", ""])
def test_what_is_no_device_is_refused_by_name(device, tmp_path):
    options = {"spec": {"evaluation": {"device": device}}}
    message = rf"evaluation\.device is '{device}', which torch cannot use here"
    with pytest.raises(InputError, match=message):
        search(torch.nn.Linear(8, 4), lambda m: 1.0, **options)
    with pytest.raises(InputError, match=message):
        moeash.compress(torch.nn.Linear(8, 4), tmp_path / "a.moeash", candidate={"k": 4}, **options)


def test_all_candidates_failing_later_is_an_error_and_no_empty_front():
    calls = []

    def evaluate(module):
        calls.append(1)
        return 1.0 if len(calls) == 1 else None

    with pytest.raises(EvaluationError, match=r"all \d+ candidates failed; the first.*NoneType"):
        search(torch.nn.Linear(8, 4), evaluate)
