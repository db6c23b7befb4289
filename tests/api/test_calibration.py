"""Compressing and searching with inputs to look at, and what becomes of norms."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import moeash
from moeash.data.splits import load_splits
from moeash.errors import (
    InputError,
    SpecError,
    StudyExistsError,
)
from moeash.networks.loading.sources import load_network
from tests.api.modules import FEEDBACK, codec, search, transformer
from tests.backends.studies import Listener
from tests.digits import digits_spec
from tests.marks import slow


@pytest.mark.slow
def test_calibration_inputs_make_feedback_better_than_nearest_entries(tmp_path):
    network, x, closeness = transformer()
    told = Listener()
    options = {"candidate": {"k": 20, "rate": 0.02}, "method": FEEDBACK}
    loader = DataLoader(TensorDataset(x, torch.zeros(100)), batch_size=16)
    moeash.compress(network, tmp_path / "ours.moeash", calibration=loader, progress=told, **options)
    assert any("are assigned with feedback from 50 calibration images" in n for n in told.notes)
    assert any(n.startswith("class_token goes to its nearest entries: ") for n in told.notes)
    with pytest.warns(UserWarning, match="no calibration inputs.*pass calibration="):
        moeash.compress(network, tmp_path / "plain.moeash", **options)
    ours, plain = (
        closeness(moeash.load(tmp_path / f"{name}.moeash", into=transformer()[0]))
        for name in ("ours", "plain")
    )
    assert plain < 1.1 * ours < 0


@pytest.mark.slow
def test_a_refined_file_is_closer_where_the_method_has_a_slower_way(tmp_path):
    network, x, closeness = transformer()
    distances = {False: 0.0, True: 0.0}
    for k in (14, 20):
        for refined in distances:
            file = tmp_path / f"{k}-{refined}.moeash"
            options = {"method": FEEDBACK, "refined": refined, "calibration": x}
            moeash.compress(network, file, candidate={"k": k, "rate": 0.02}, **options)
            distances[refined] -= closeness(moeash.load(file, into=transformer()[0]))
    assert 0 < distances[True] < distances[False]
    with pytest.raises(InputError, match="method uniform has no slower way"):
        moeash.compress(network, tmp_path / "a.moeash", candidate={"k": 14}, refined=True)


@pytest.mark.slow
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
            spec={"merge": {"trials": 0}},
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
    module = torch.nn.Linear(4, 2)
    with pytest.raises(InputError, match="uniform looks at no inputs; leave calibration out"):
        search(module, lambda module: 1.0, calibration=torch.randn(8, 4), spec=codec("float32"))


@pytest.mark.parametrize("norms", ["two_vectors", slow("as_they_are")])
@pytest.mark.parametrize("kept", ["float16", slow("float32")])
def test_without_inputs_to_check_on_every_kept_tensor_is_exact(tmp_path, kept, norms):
    module, told = load_network("digits-cnn"), Listener()
    options = {"candidate": {"k": 16}, "spec": codec(kept, norms)}
    report = moeash.compress(module, tmp_path / "x.moeash", progress=told, **options)
    decoded, state = moeash.read(tmp_path / "x.moeash"), module.state_dict()
    vectors = [name for name in state if state[name].ndim < 2]
    assert vectors
    for name in vectors:
        assert decoded[name].dtype == state[name].numpy().dtype
        assert (decoded[name] == state[name].numpy()).all(), name
    notes = [note for note in told.notes if "there are no inputs to check on" in note]
    if (kept, norms) == ("float32", "as_they_are"):
        assert not notes
        return
    # What the note promises is what calibration= brings.
    x = torch.rand(5, 1, 8, 8)
    smaller = moeash.compress(module, tmp_path / "y.moeash", calibration=x, **options).total
    assert len(notes) == 1
    assert abs(int(notes[0].split(" bytes")[0].split()[-1]) - (report.total - smaller)) < 40


def test_a_network_that_returns_nothing_to_compare_by_keeps_every_kept_tensor(tmp_path):
    class Labels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.first(x)).argmax(1)

    module, told = Labels().eval(), Listener()
    module.norm.running_mean.uniform_(1, 2)
    path, x = tmp_path / "x.moeash", torch.randn(8, 8)
    moeash.compress(module, path, candidate={"k": 64}, calibration=x, progress=told)
    decoded = moeash.read(path)
    assert (decoded["first.bias"] == module.first.bias.detach().numpy()).all()
    assert (decoded["norm.running_mean"] == module.norm.running_mean.numpy()).all()
    assert any("returns no tensor by which to check" in note for note in told.notes)


def test_norms_whose_statistics_somebody_else_reads_are_stored_as_they_are(tmp_path):
    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.first(x)) + self.norm.running_mean

    torch.manual_seed(0)
    module, told = Reader(), Listener()
    x = torch.randn(64, 8)
    module.train()(3 + x)
    module.eval()
    path = tmp_path / "x.moeash"
    moeash.compress(module, path, candidate={"k": 64}, calibration=x, progress=told)
    assert any("something else reads their statistics" in note for note in told.notes)
    assert moeash.read(path)["norm.running_mean"].any()


def test_a_function_that_counts_rounding_is_told_apart_by_outputs():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    x = 100 * torch.randn(64, 8)
    module(x)
    module.eval()
    expected = module(x).detach()

    def far(given):
        return -1e6 * float((given(x).detach() - expected).abs().sum())

    told = Listener()
    search(module, far, progress=told)
    (note,) = [note for note in told.notes if "BatchNorms are stored as they are" in note]
    assert "move the metric from -0 to -" in note and "rounding alone, pass calibration=" in note
    told = Listener()
    search(module, far, calibration=x, progress=told)
    assert not any("BatchNorms are stored as they are" in note for note in told.notes)


def test_float_buffers_that_are_no_statistics_keep_their_precision(tmp_path):
    class Rotary(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(8, 8)
            self.register_buffer("inv_freq", 1 / 10000 ** (torch.arange(4) / 3.7))

        def forward(self, x):
            return self.first(x)

    module = Rotary()
    path = tmp_path / "x.moeash"
    moeash.compress(module, path, candidate={"k": 64}, calibration=torch.randn(9, 8))
    assert (moeash.read(path)["inv_freq"] == module.inv_freq.numpy()).all()
    bias = moeash.read(path)["first.bias"]
    assert (bias == module.first.bias.detach().half().float().numpy()).all()


@pytest.mark.parametrize("norms", ["two_vectors", "as_they_are"])
def test_a_compressed_network_is_the_same_function_with_two_vectors(tmp_path, norms):
    module = load_network("digits-cnn").eval()
    x = torch.rand(5, 1, 8, 8)
    path = tmp_path / "x.moeash"
    given = x if norms == "two_vectors" else None
    moeash.compress(
        module, path, candidate={"k": 4096}, calibration=given, spec=codec("float32", norms)
    )
    decoded = moeash.read(path)
    rewritten = [name for name in decoded if name.endswith("running_mean")]
    assert all(decoded[name].any() == (norms == "as_they_are") for name in rewritten)
    assert rewritten
    expected = module(x)
    moeash.load(path, into=module)
    assert (module(x) - expected).abs().max() < 1e-2 * expected.abs().max()


def test_two_vectors_make_the_file_smaller(tmp_path):
    module = load_network("digits-cnn")
    sizes = [
        moeash.compress(
            module,
            tmp_path / "x.moeash",
            candidate={"k": 16},
            calibration=torch.rand(5, 1, 8, 8) if norms == "two_vectors" else None,
            spec=codec(norms=norms),
            force=True,
        ).total
        for norms in ("two_vectors", "as_they_are")
    ]
    assert sizes[0] < sizes[1] - 90  # of 192 float16 values 96 are constants now


@pytest.mark.parametrize("method", [{"name": "uniform", "k": [2, 4096]}, slow(FEEDBACK)])
def test_a_network_compressed_with_folded_norms_is_the_same_function(tmp_path, method):
    module = load_network("digits-cnn").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    told = Listener()
    moeash.compress(
        module,
        tmp_path / "x.moeash",
        candidate={"k": 4096} if method["name"] == "uniform" else {"k": 500, "rate": 0.02},
        method=method,
        calibration=x,
        spec=codec("float32", "folded"),
        progress=told,
    )
    assert "2 BatchNorms are folded into the layers before them" in told.notes
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    decoded = moeash.read(tmp_path / "x.moeash")
    assert (decoded["bn1.weight"] == 1).all() and not decoded["bn2.running_mean"].any()
    with torch.inference_mode():
        expected = module(x)
        moved = (moeash.load(tmp_path / "x.moeash", into=module)(x) - expected).abs().max()
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

    def run(norms, **options):
        return moeash.search(
            module,
            evaluate=agreement,
            name="mine",
            storage=str(tmp_path / "a.db"),
            population=4,
            generations=1,
            spec=codec(norms=norms) | {"merge": {"trials": 0}},
            **options,
        )

    study = run("folded", calibration=x)
    assert study.facts.baseline == 1.0
    report = moeash.export(study, tmp_path / "a.moeash", pick="best")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert (moeash.read(tmp_path / "a.moeash")["bn1.weight"] == 1).all()
    measured = agreement(moeash.load(tmp_path / "a.moeash", into=load_network("digits-cnn")))
    assert measured == report.solution["metric"]
    with pytest.raises(StudyExistsError, match=r"codec\.norms"):
        run("two_vectors")


@pytest.mark.slow
def test_norms_measured_again_bring_a_coarse_network_closer(tmp_path):
    module = load_network("digits-cnn").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x, _ = next(load_splits(digits_spec().data)["search"].batches(200))
    with torch.inference_mode():
        expected = module(x).softmax(1)

    def closeness(module):
        with torch.inference_mode():
            return -float((module(x).softmax(1) - expected).square().mean())

    found, told = {}, Listener()
    for again in (False, True):
        path = tmp_path / f"{again}.moeash"
        moeash.compress(
            module,
            path,
            candidate={"k": 10},
            calibration=x,
            spec=codec(norms="remeasured" if again else "two_vectors"),
            progress=told,
        )
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        found[again] = closeness(moeash.load(path, into=load_network("digits-cnn").eval()))
    assert told.notes == [
        "the statistics of 2 BatchNorms are measured again on 200 calibration images"
    ]
    assert found[False] < 1.5 * found[True] < 0
    study = moeash.search(
        module,
        evaluate=closeness,
        method={"name": "uniform", "k": [10, 10]},
        calibration=x,
        generations=1,
        spec=codec(norms="remeasured") | {"merge": {"trials": 0}},
    )
    assert [s.metric for s in study.front()] == [found[True]]
    assert study.facts.baseline == 0 > study.facts.remeasured_baseline
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_norms_are_not_measured_again_without_inputs(tmp_path):
    options = {"candidate": {"k": 4}, "spec": codec(norms="remeasured")}
    module = load_network("digits-cnn")
    with pytest.raises(InputError, match="measuring BatchNorms again takes calibration images"):
        moeash.compress(module, tmp_path / "x.moeash", **options)
    assert list(tmp_path.iterdir()) == []


def test_folding_norms_without_inputs_says_what_is_missing(tmp_path):
    module = load_network("digits-cnn")
    folded = codec(norms="folded")
    with pytest.raises(InputError, match=r"folding BatchNorms .* pass calibration="):
        moeash.compress(module, tmp_path / "x.moeash", candidate={"k": 4}, spec=folded)
    with pytest.raises(InputError, match=r"folding BatchNorms .* pass calibration="):
        moeash.search(module, evaluate=lambda module: 0.0, spec=folded)
    assert list(tmp_path.iterdir()) == []


def test_without_images_nothing_can_be_measured(tmp_path):
    module = load_network("digits-cnn")
    with pytest.raises(InputError, match="kept = 'auto' measures"):
        moeash.compress(module, tmp_path / "x.moeash", candidate={"k": 4}, spec=codec("auto"))
    with pytest.raises(SpecError, match="kept = 'auto' measures"):
        moeash.search(module, evaluate=lambda module: 0.0, spec=codec("auto"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["wfn", slow("pwfn")])
def test_a_method_that_trains_sees_every_input_it_is_given(tmp_path, method):
    n_inputs, batch_size, epochs = 640, 64, 2
    told = Listener()
    moeash.compress(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)),
        tmp_path / "x.moeash",
        candidate={"delta": 0.5},
        method={"name": method, "delta": [0.1, 1], "epochs": epochs, "fractions": [0.5, 1]},
        calibration=torch.rand(n_inputs, 1, 8, 8),
        spec={"training": {"batch_size": batch_size}},
        progress=told,
    )  # fmt: skip
    steps = {doing.total or 0 for doing in told.of("doing")}
    assert max(steps) - n_inputs // batch_size * epochs in (0, 1), steps  # and a bit of an epoch


def test_what_trains_is_named_where_it_has_no_inputs(tmp_path):
    network = load_network("digits-cnn")
    with pytest.raises(InputError, match="method wfn needs inputs to train on; give calibration="):
        moeash.compress(
            network,
            tmp_path / "x.moeash",
            candidate={"delta": 0.5},
            method={"name": "wfn", "delta": [0.1, 1]},
        )
    with pytest.raises(InputError, match="distill needs inputs to train on"):
        moeash.search(network, evaluate=lambda _: 0.0, spec={"distill": {"solutions": 1}})
