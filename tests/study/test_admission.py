"""A study continues on the function it began with: the same weights in other code are another."""

import pytest
import torch
from torch import nn

import moeash
from moeash.backends.inprocess import InProcessBackend
from moeash.errors import RebuildMismatchError, StudyExistsError
from moeash.evaluation.assess import SAMPLED, sample_of
from moeash.networks.loading.sources import load_network
from moeash.study.events import Note
from moeash.study.run import run
from moeash.study.storage.sql import SqlStorage
from tests.backends.studies import Listener
from tests.digits import digits_plan
from tests.marks import slow

CODE = {"changed": lambda outputs: outputs}
"""What the network's code does to its outputs today."""


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = load_network("digits-cnn")

    def forward(self, x):
        return CODE["changed"](self.inner(x))


def network():
    return Digits()


def continued(storage, **options):
    listener = Listener()
    plan = digits_plan(
        network={"source": f"{__name__}:network"}, budget={"generations": 1}, merge={"trials": 0}
    )
    study = run(plan, storage, InProcessBackend, listener, **options)
    return study, [event.text for event in listener.events if isinstance(event, Note)]


@pytest.fixture
def code(monkeypatch):
    def becomes(function):
        monkeypatch.setitem(CODE, "changed", function)

    return becomes


OTHER = {
    "twice as large, so that top-1 stays": slow(lambda y: 2 * y),
    "one class moved": lambda y: y + torch.eye(10)[3],
    "fewer classes": slow(lambda y: torch.cat([y, y[:, :1] - 100], 1)),
    "not a number": slow(lambda y: torch.where(y == y[0, 0], torch.nan, y)),
}


@pytest.mark.parametrize("function", OTHER.values(), ids=OTHER)
def test_the_same_weights_in_other_code_are_refused(tmp_path, code, function):
    storage = SqlStorage(tmp_path / "a.db")
    first, _ = continued(storage)
    before = first.evaluations(), first.status
    code(function)
    with pytest.raises(StudyExistsError, match=r"outputs .* more than rounding explains"):
        continued(storage)
    assert (first.evaluations(), first.status) == before


@pytest.mark.slow
def test_the_figure_is_named_and_a_person_may_insist(tmp_path, code):
    storage = SqlStorage(tmp_path / "a.db")
    continued(storage)
    code(lambda y: 1.5 * y)
    with pytest.raises(StudyExistsError, match=r"moved by 0\.5 of the largest.*--accept-baseline"):
        continued(storage)
    _, notes = continued(storage, accept_baseline=True)
    assert any("accepted, although its outputs have moved by 0.5" in note for note in notes)


def test_what_rounding_explains_continues(tmp_path, code):
    storage = SqlStorage(tmp_path / "a.db")
    continued(storage)
    code(lambda y: y + 1e-5 * y.roll(1, 0))
    continued(storage)


def test_a_solution_is_not_reported_on_what_other_code_makes_of_it(tmp_path, code):
    continued(SqlStorage(tmp_path / "a.db"))
    allowed = [f"{__name__}:network"]
    study = moeash.open_study("digits", tmp_path / "a.db", allow_modules=allowed)
    target = tmp_path / "a.moeash"
    code(lambda y: 1.5 * y)
    with pytest.raises(RebuildMismatchError, match=r"moved by 0\.5 of the .*--accept-baseline"):
        moeash.export(study, target, progress=False)
    assert not target.exists()
    moeash.export(study, target, accept_baseline=True, progress=False)
    code(lambda y: y + 1e-5 * y.roll(1, 0))
    moeash.export(study, target, force=True, progress=False)


def test_a_users_function_that_measures_something_else_is_refused(tmp_path):
    torch.manual_seed(0)
    module, x = nn.Linear(8, 4), torch.randn(64, 8)
    expected = module(x).detach()

    def searched(shift, **options):
        def closeness(m):
            with torch.no_grad():
                return shift - float((m(x) - expected).square().mean())

        return moeash.search(
            module,
            evaluate=closeness,
            name="mine",
            storage=str(tmp_path / "a.db"),
            population=4,
            generations=1,
            spec={"merge": {"trials": 0}},
            progress=False,
            **options,
        )

    first = searched(1.0)
    assert searched(1.0 + 1e-7).evaluations() == first.evaluations()
    with pytest.raises(StudyExistsError, match=r"it measures 1\.01, 1\.0 before.*accept_baseline"):
        searched(1.01)
    assert searched(1.01, accept_baseline=True).evaluations() == first.evaluations()


def _closeness(y, expected):
    return -float((y - expected).abs().mean())


SAYS_NOTHING_OF_THE_FLOAT_NETWORK = {
    "another distance": (torch.relu, lambda y, e: -float((y - e).square().mean())),
    "another activation": (torch.tanh, _closeness),
    "other images": (torch.relu, lambda y, e: _closeness(y[:100], e[:100])),
    "a function that no longer works": (torch.relu, lambda y, e: 0.0 if torch.equal(y, e) else {}),
}


@pytest.mark.parametrize(
    ("activation", "measured"),
    SAYS_NOTHING_OF_THE_FLOAT_NETWORK.values(),
    ids=SAYS_NOTHING_OF_THE_FLOAT_NETWORK,
)
def test_a_change_is_seen_where_the_float_network_measures_the_same_whatever_it_is(
    tmp_path, activation, measured
):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
            self.activation = torch.relu

        def forward(self, x):
            return self.last(self.activation(self.first(x)))

    torch.manual_seed(0)
    module, x = Net(), torch.randn(200, 8)

    def searched(measured, **options):
        with torch.no_grad():
            expected = module(x)

        def evaluate(m):
            with torch.no_grad():
                return measured(m(x), expected)

        return moeash.search(
            module,
            evaluate=evaluate,
            name="mine",
            storage=str(tmp_path / "a.db"),
            population=4,
            generations=1,
            method={"k": [2, 64]},
            spec={"merge": {"trials": 0}},
            progress=False,
            **options,
        )

    first = searched(_closeness).evaluations()
    assert searched(_closeness).evaluations() == first
    module.activation = activation
    with pytest.raises(StudyExistsError, match=r"evaluation \d+ \(k=\d+\) measures .* before"):
        searched(measured)
    assert searched(measured, accept_baseline=True).evaluations() == first


def right(outputs, labels):
    return (outputs.argmax(1) == labels).double() * CODE.get("worth", 1.0)


@pytest.mark.parametrize("metric", ["top1", f"{__name__}:right"])
def test_a_change_that_a_sample_does_not_see_is_seen_by_the_metric(
    tmp_path, code, monkeypatch, metric
):
    def studied():
        plan = digits_plan(
            network={"source": f"{__name__}:network"},
            evaluation={"metric": metric, "batch_size": 200},
            budget={"generations": 1},
            merge={"trials": 0},
        )
        return run(plan, SqlStorage(tmp_path / "a.db"), InProcessBackend)

    studied()
    if metric == "top1":
        # Images behind the sampled ones, as of a class that comes later in a folder.
        code(lambda y: torch.cat([y[:40], -y[40:]]) if len(y) > 40 else y)
    else:
        monkeypatch.setitem(CODE, "worth", 0.99)
    with pytest.raises(StudyExistsError, match=r"it measures 0\.\d+, [01]\.\d+ before"):
        studied()


def test_a_sample_is_of_many_images_and_small():
    outputs = torch.arange(40_000.0).reshape(40, 1000)
    sample = sample_of(outputs)
    assert len(sample) == SAMPLED
    assert len({value // 1000 for value in sample}) == 16
    assert sample_of(outputs[:2, :3]) == (0.0, 1.0, 2.0, 1000.0, 1001.0, 1002.0)
