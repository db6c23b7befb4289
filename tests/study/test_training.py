"""Steps that train, in a study: stored, exported, continued after kill -9, on its front."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch

import moeash
from moeash import export
from moeash.backends.inprocess import InProcessBackend
from moeash.core.solutions.recipe import Distill, Tune
from moeash.errors import InputError
from moeash.exports.building import building
from moeash.exports.plots import plot_front
from moeash.methods.training import session
from moeash.methods.training.checkpoints import SUFFIX
from moeash.study.storage.sql import SqlStorage
from tests.backends.studies import Listener, front, run_study, sequence, spec
from tests.digits import digits_spec
from tests.forks import Fork
from tests.marks import slow


def trained(name="trained", epochs=20, **changes):
    return spec(
        name,
        data__splits__train={"part": "all", "count": 300, "seed": 0},
        data__splits__holdout={"part": "all", "rest": True},
        evaluation__metric="neg_divergence",
        search={"population": 4},
        budget={"generations": 2},
        merge={"trials": 3},
        distill={
            "solutions": 2,
            "rates": [0.3, 3.0],
            "epochs": epochs,
            "temperature": 1.0,
        },
        tune={"solutions": 2, "epochs": 1},
        training={"batch_size": 64},
        **changes,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return run_study(tmp_path_factory.mktemp("trained"), trained())


def staged(study, stage):
    return [r for r in study.evaluations() if r.stage == stage]


@pytest.mark.slow
def test_solutions_of_the_front_are_distilled_at_every_rate_and_tuned(study):
    records = {r.number: r for r in study.evaluations()}
    distilled, tuned = staged(study, "distilled"), staged(study, "tuned")
    assert [r.recipe.steps[-1] for r in distilled] == [
        Distill(epochs=20, batch_size=64, rate=rate) for rate in (0.3, 3.0)
    ] * 2
    assert [r.recipe.steps[-1] for r in tuned] == [Tune(epochs=1, batch_size=64)] * 2
    for record in (*distilled, *tuned):
        parent = records[record.parent]
        assert record.recipe == parent.recipe.then(record.recipe.steps[-1])
        assert record.outcome.sizes.entries <= parent.outcome.sizes.entries
    assert any("merged" in str(r.recipe) for r in distilled), "what was merged can be distilled"


@pytest.mark.slow
def test_what_was_trained_stands_on_the_front_and_in_its_picture(study):
    on_front = {s.record.stage for s in study.front()}
    assert "distilled" in on_front
    labels = [t.get_text() for t in plot_front([study]).axes[0].figure.legends[0].get_texts()]
    assert {"distilled (4)", "tuned (2)"} <= set(labels)


@pytest.mark.slow
def test_what_was_trained_is_built_from_its_file_and_exported(study, tmp_path):
    complete = [
        r
        for stage in ("distilled", "tuned")
        for r in staged(study, stage)
        if r.outcome.status == "complete"
    ]
    assert complete
    told = []
    with building(study, lambda what, *_: told.append(what)) as build:
        for record in complete:
            assert build(record.recipe).fingerprint() == record.outcome.fingerprint
    assert not told, "nothing is loaded or prepared to read a file"
    report = export(study, tmp_path / "a.moeash", id=complete[0].number)
    assert report.size_bytes == complete[0].outcome.sizes.size_bytes
    assert report.size_bytes == (tmp_path / "a.moeash").stat().st_size


@pytest.mark.slow
def test_a_finished_study_is_continued_with_training(tmp_path, study):
    plain = trained() | {"distill": {"solutions": 0}, "tune": {"solutions": 0}}
    before = run_study(tmp_path, plain)
    n_before = len(before.evaluations())
    made = []

    class Counting(InProcessBackend):
        def submit(self, job, archive):
            made.append(job.recipe)
            return super().submit(job, archive)

    after = run_study(tmp_path, trained(), make_backend=Counting)
    assert len(made) == 6
    assert all(recipe.trained for recipe in made)
    assert len(after.evaluations()) == n_before + 6
    assert sequence(after) == sequence(study)
    assert front(after) == front(study)


KILLED = """
    import json, sys
    import moeash
    from moeash.methods.training import session

    session.SAVE_EVERY_S = 0.1  # of the minute a user has
    moeash.run(json.loads(sys.argv[1]), storage=sys.argv[2], progress=False)
"""


@pytest.mark.slow(seconds=40)
def test_a_training_killed_in_its_middle_goes_on_and_ends_with_the_same_bits(tmp_path):
    plain = trained() | {
        "tune": {"solutions": 0},
        "distill": {"solutions": 1, "rates": [1.0], "epochs": 40},
    }
    whole = run_study(tmp_path, plain)
    path = tmp_path / "killed.db"
    beside = SqlStorage(str(path)).beside("prepared")
    places = []
    for _ in range(3):
        child = Fork(KILLED, json.dumps(plain), path)
        saved = wait_for_save(beside, places)
        child.kill()
        child.communicate()
        assert child.returncode == -signal.SIGKILL, "the study ended before it could be killed"
        places.append(saved)
    assert places[0] != places[1] != places[2]
    done = moeash.run(plain, storage=str(path), progress=False)
    assert sequence(done) == sequence(whole)


def wait_for_save(beside, earlier):
    """Return the moment at which a training was saved anew."""
    for _ in range(2400):
        found = [p.stat().st_mtime_ns for p in Path(beside).glob(f"*{SUFFIX}")]
        if found and max(found) not in earlier and (not earlier or max(found) > max(earlier)):
            return max(found)
        time.sleep(0.05)
    raise AssertionError("no training was saved within two minutes")


def test_a_training_without_images_is_refused_before_the_search():
    for table in ("distill", "tune"):
        with pytest.raises(
            InputError, match=r"needs images to train on; add \[data.splits.train\]"
        ):
            digits_spec(**{table: {"solutions": 1}})


def test_rates_are_told_apart():
    for rates in ([], [0.5, 0.5]):
        with pytest.raises(InputError, match=r"distill.rates is .* one or more different rates"):
            digits_spec(distill={"rates": rates})


def test_a_study_from_python_trains_on_its_calibration_inputs(tmp_path):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 4))
    inputs = torch.randn(256, 20)
    with torch.no_grad():
        wanted = module(inputs).log_softmax(1)

    def evaluate(m):
        with torch.no_grad():
            given = m(inputs).log_softmax(1)
        return -float(
            torch.nn.functional.kl_div(given, wanted, log_target=True, reduction="batchmean")
        )

    def search(**changes):
        return moeash.search(
            module,
            evaluate=evaluate,
            method={"name": "uniform", "k": [4, 6]},
            name="python",
            storage=str(tmp_path / "a.db"),
            progress=False,
            spec={
                "search": {"population": 4},
                "budget": {"generations": 2},
                "merge": {"trials": 0},
                "distill": {"solutions": 1, "rates": [0.001], "epochs": 40},
                "training": {"batch_size": 32, **changes.pop("training", {})},
            },
            **changes,
        )

    with pytest.raises(InputError, match="give calibration="):
        search()
    with pytest.raises(InputError, match="needs labels, and inputs given from Python have none"):
        search(calibration=inputs, training={"labels": 0.5})
    held = {name: value.clone() for name, value in module.state_dict().items()}
    study = search(calibration=inputs)
    (distilled,) = staged(study, "distilled")
    assert distilled.outcome.status == "complete"
    parent = next(r for r in study.evaluations() if r.number == distilled.parent)
    assert distilled.outcome.metric > parent.outcome.metric
    assert all(torch.equal(value, held[name]) for name, value in module.state_dict().items())


class Half(torch.nn.Module):
    """A layer that is trained, one that is not used, and one that no gradient comes back to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.seen, self.unused = torch.nn.Linear(20, 4), torch.nn.Linear(20, 4)
        self.hidden = torch.nn.Linear(20, 4)

    def forward(self, x):
        return self.seen(x) + self.hidden(x).detach()


@pytest.mark.parametrize(
    ("method", "phases"),
    [
        (
            {"name": "uniform"},
            {"distill": {"solutions": 1, "rates": [0.1], "epochs": 1, "learning_rate": 0.5}},
        ),
        ({"name": "uniform"}, {"tune": {"solutions": 1, "epochs": 1}}),
        ({"name": "wfn", "fractions": [0.5, 1.0], "epochs": 1}, {}),
        slow({"name": "pwfn", "fractions": [0.5, 1.0], "epochs": 1}, {}),
        ({"name": "uniform"}, {}),
    ],
    ids=["distill", "tune", "wfn", "pwfn", "nothing"],
)
def test_people_are_told_what_no_training_moves_before_anything_is_trained(method, phases):
    listen = Listener()
    module = Half()
    inputs = torch.randn(64, 20)
    with torch.no_grad():
        wanted = module(inputs)

    def evaluate(m):
        with torch.no_grad():
            return -float((m(inputs) - wanted).square().mean())

    trains = bool(phases) or method["name"] != "uniform"
    moeash.search(
        module,
        evaluate=evaluate,
        method=method,
        calibration=inputs if trains else None,
        population=2,
        generations=1,
        spec={"merge": {"trials": 0}, "training": {"batch_size": 32}, **phases},
        progress=listen,
    )
    told = [note for note in listen.notes if "no training" in note]
    assert len(told) == 2 * trains
    if trains:
        assert told[0] == "no training looks at unused.weight: the outputs do not depend on it"
        assert told[1].startswith("no training moves hidden.weight: the outputs depend on it, but")
        kinds = [event.kind for event in listen.events]
        assert kinds.index("note") < kinds.index("evaluated")


def test_a_network_that_detaches_its_outputs_is_refused_before_the_search():
    class Detached(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    measured = []

    def evaluate(module):
        measured.append(module(torch.ones(1, 20)))
        return 0.0

    with pytest.raises(InputError, match="the outputs of Detached have no gradient"):
        moeash.search(
            Detached(20, 4),
            evaluate=evaluate,
            calibration=torch.randn(32, 20),
            spec={"distill": {"solutions": 1}},
            progress=False,
        )
    assert len(measured) == 1, "the float network"


def test_a_distilling_of_too_few_steps_is_refused_before_the_search():
    listen = Listener()

    def search(**distill):
        return moeash.search(
            torch.nn.Linear(20, 4),
            evaluate=lambda module: 0.0,
            calibration=torch.randn(64, 20),
            population=2,
            generations=1,
            spec={"distill": {"solutions": 1, "rates": [0.1]} | distill},
            progress=listen,
        )

    with pytest.raises(InputError) as refused:
        search(epochs=48)
    assert str(refused.value) == (
        "distilling would change nothing: 64 images make 1 step an epoch, and 48 in all move a "
        "weight by 0.49 of the way to the next entry at most, where half of it is needed; raise "
        "distill.epochs or distill.learning_rate, or lower training.batch_size"
    )
    assert "evaluated" not in {event.kind for event in listen.events}
    (distilled,) = staged(search(epochs=60), "distilled")
    assert distilled.outcome.status == "complete"


@pytest.mark.slow
def test_a_stop_request_ends_a_training_and_the_study_goes_on_from_there(tmp_path, monkeypatch):
    plain = trained() | {
        "tune": {"solutions": 0},
        "distill": {"solutions": 1, "rates": [1.0], "epochs": 10, "learning_rate": 0.03},
    }
    whole = run_study(tmp_path, plain | {"name": "whole"})
    monkeypatch.setattr(session, "SAVE_EVERY_S", 0.0)
    heard = []

    def stop(event):
        if event.kind == "doing" and event.what.startswith("training"):
            heard.append(event)
            if event.done >= 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(tmp_path, plain, listen=stop)
    assert moeash.open_study("trained", str(tmp_path / "trained.db")).status == "interrupted"
    steps = [event.done for event in heard]
    assert steps == [0, 10, 20]
    again = Listener()
    done = run_study(tmp_path, plain, listen=again)
    went_on = [e.done for e in again.of("doing") if e.what.startswith("training")]
    assert went_on[0] == 19, "it was saved before every step but the last, which was told of"
    told = [e for e in again.of("doing") if e.what.startswith("training")]
    assert any(e.left_s is not None for e in told), "and how long it will take is told"
    assert sequence(done) == sequence(whole)


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["two_vectors", "as_they_are", "remeasured"])
def test_solutions_are_trained_with_the_statistics_of_batches(tmp_path, norms):
    plain = trained(
        codec={"norms": norms}, data__splits__calibration={"part": "all", "count": 100, "seed": 2}
    )
    plain |= {
        "distill": plain["distill"] | {"solutions": 1, "rates": [0.3]},
        "training": {"batch_size": 64, "norms": "batch"},
    }
    study = run_study(tmp_path, plain)
    (distilled,) = staged(study, "distilled")
    tuned = staged(study, "tuned")
    assert distilled.recipe.steps[-1].norms == tuned[0].recipe.steps[-1].norms == "batch"
    complete = [r for r in (distilled, *tuned) if r.outcome.status == "complete"]
    assert distilled in complete
    for number, record in enumerate(complete):
        report = export(study, tmp_path / f"{number}.moeash", id=record.number)
        assert report.size_bytes == record.outcome.sizes.size_bytes
    means = moeash.read(tmp_path / "0.moeash")["bn1.running_mean"]
    assert means.any() == (norms == "as_they_are")


def test_batches_have_no_statistics_of_norms_that_are_folded_away():
    train = {"splits": {"train": {"part": "all", "count": 100, "seed": 0}}}
    with pytest.raises(InputError, match=r"training.norms = 'batch' trains with BatchNorms that"):
        digits_spec(
            tune={"solutions": 1},
            data=train,
            training={"norms": "batch"},
            codec={"norms": "folded"},
        )
