"""Networks of several arguments, and of outputs that are no tensor (n, classes)."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import moeash
from moeash.errors import InputError
from tests.backends.studies import Listener
from tests.marks import few_quick

FEEDBACK = {"name": "feedback", "k": [8, 40], "images": 60, "sketches": 1}
GPFQ = {"name": "gpfq", "levels": [2, 6], "images": 60}


class Net(nn.Module):
    """Tokens and a mask in, whatever ``returns`` makes of scores out; with a BatchNorm inside."""

    def __init__(self, returns, classes=5):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix = nn.Embedding(20, 12), nn.Linear(12, 16)
        self.norm, self.head = nn.BatchNorm1d(16), nn.Linear(16, classes)
        self.returns = returns
        with torch.no_grad():
            self.train()(TOKENS, MASK)
        self.eval()

    def forward(self, tokens, mask, *, scale=1.0):
        x = self.mix(self.embed(tokens) * mask.unsqueeze(-1)) * scale
        x = self.norm(x.transpose(1, 2)).transpose(1, 2).relu()
        return self.returns(self.head(x))


@dataclass
class Returned:
    scores: torch.Tensor
    extra: torch.Tensor


class Opaque:
    def __init__(self, y):
        self.y = y


TOKENS = torch.randint(0, 20, (60, 7), generator=torch.Generator().manual_seed(1))
MASK = (torch.rand(60, 7, generator=torch.Generator().manual_seed(2)) > 0.2).float()

BY_NAME = {"tokens": TOKENS, "mask": MASK}

INPUTS = {
    "tuples": lambda: list(zip(TOKENS.split(16), MASK.split(16), strict=True)),
    "loader with labels": lambda: DataLoader(TensorDataset(TOKENS, MASK, MASK), batch_size=16),
    "mixed": lambda: [{"tokens": TOKENS, "mask": MASK, "scale": 1.0}],
}

RETURNS = {
    "sequence": (lambda y: y, None),
    "classes": (lambda y: y.mean(1), None),
    "single values": (lambda y: y.mean((1, 2)), None),
    "logits of several": (lambda y: {"logits": y, "hidden": y * 2}, None),
    "only one of a tuple": (lambda y: (y, None), None),
    "a named one": (lambda y: Returned(y, y * 0), lambda returned: returned.scores),
    "of an own class": (lambda y: Opaque(y), lambda returned: returned.y),
    "a loss": (lambda y: y, lambda y: y.square().mean()),
}


def compressed(network, path, method, calibration, output=None, **spec):
    told = Listener()
    candidate = {"k": 30, "rate": 0.02} if method["name"] == "feedback" else {"levels": 5}
    moeash.compress(
        network,
        path,
        candidate=candidate,
        method=method,
        refined=method["name"] == "feedback",
        calibration=calibration,
        output=output,
        spec={"codec": spec},
        force=True,
        progress=told,
    )
    return told.notes


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The files of inputs given by name, by method."""
    path = tmp_path_factory.mktemp("reference") / "a.moeash"
    found = {}
    for method in (FEEDBACK, GPFQ):
        compressed(Net(lambda y: y), path, method, BY_NAME)
        found[method["name"]] = path.read_bytes()
    return found


@pytest.mark.parametrize("given", few_quick(INPUTS, "tuples"))
@pytest.mark.parametrize("method", [FEEDBACK, GPFQ], ids=["feedback", "gpfq"])
def test_however_arguments_are_given_the_same_file_results(tmp_path, reference, given, method):
    network = Net(lambda y: y)
    notes = compressed(network, tmp_path / "a.moeash", method, INPUTS[given]())
    assert (tmp_path / "a.moeash").read_bytes() == reference[method["name"]]
    assert any("60" in note for note in notes)


@pytest.mark.parametrize(
    "kind", few_quick(RETURNS, "single values", "of an own class", "logits of several")
)
def test_feedback_moves_the_outputs_less_than_nearest_entries_whatever_is_returned(tmp_path, kind):
    returns, output = RETURNS[kind]
    network = Net(returns)
    notes = compressed(network, tmp_path / "a.moeash", FEEDBACK, BY_NAME, output)
    assert any("are assigned with feedback from 60" in note for note in notes)
    assert not any("two vectors" in note for note in notes)
    plain = FEEDBACK | {"balance": 0.0}
    with pytest.warns(UserWarning, match="no calibration inputs"):
        moeash.compress(
            network, tmp_path / "n.moeash", candidate={"k": 30, "rate": 0.02}, method=plain
        )
    network.returns = lambda y: y
    with torch.no_grad():
        expected = network(TOKENS, MASK)
        moved = [
            float(
                (moeash.load(tmp_path / name, into=Net(lambda y: y))(TOKENS, MASK) - expected)
                .square()
                .mean()
            )
            for name in ("a.moeash", "n.moeash")
        ]
    assert moved[0] < moved[1]


@pytest.mark.slow
@pytest.mark.parametrize("norms", ["two_vectors", "folded", "remeasured"])
@pytest.mark.parametrize("kind", ["logits of several", "of an own class"])
def test_norms_are_treated_alike_whatever_goes_in_and_out(tmp_path, norms, kind):
    class Wide(Net):
        def forward(self, tokens, mask):
            x = self.mix(self.embed(tokens) * mask.unsqueeze(-1)).transpose(1, 2).mean(2)
            return self.returns(self.head(self.norm(x).relu()))

    returns, output = RETURNS[kind]
    network = Wide(returns)
    path = tmp_path / "a.moeash"
    notes = compressed(network, path, FEEDBACK, BY_NAME, output, norms=norms)
    if norms == "remeasured":
        assert any("1 BatchNorm are measured again on 60" in note for note in notes)
    decoded = moeash.read(path)
    assert not decoded["norm.running_mean"].any()
    network.returns = lambda y: y
    with torch.no_grad():
        expected = network(TOKENS, MASK)
        moved = (moeash.load(path, into=network)(TOKENS, MASK) - expected).abs().max()
    if norms != "remeasured":  # those are other statistics
        assert moved < 0.3 * expected.abs().max()


def test_without_a_tensor_to_compare_norms_stay_as_they_are_and_the_way_out_is_told(tmp_path):
    network, told = Net(Opaque), Listener()
    path = tmp_path / "a.moeash"
    moeash.compress(network, path, candidate={"k": 30}, calibration=BY_NAME, progress=told)
    assert any("returns no tensor by which to check" in n and "output=" in n for n in told.notes)
    assert moeash.read(path)["norm.running_mean"].any()


def test_several_outputs_of_which_none_is_named_are_refused_with_the_way_out(tmp_path):
    network = Net(lambda y: (y, y))
    with pytest.raises(InputError, match=r"tuple of 2: Tensor, Tensor.*output=lambda"):
        compressed(network, tmp_path / "a.moeash", FEEDBACK, BY_NAME)
    with pytest.raises(InputError, match=r"output= failed.*KeyError"):
        compressed(network, tmp_path / "a.moeash", FEEDBACK, BY_NAME, lambda y: {}["a"])
    with pytest.raises(InputError, match="give calibration= as well"):
        compressed(network, tmp_path / "a.moeash", FEEDBACK, None, lambda y: y)


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (torch.randn(9, 5), r"Linear.*first weight is weight: float32 \(2, 4\).*float32 \(1, 5\)"),
        (torch.randn(9, 4).double(), r"float64 \(1, 4\): RuntimeError.*it takes Linear.forward"),
        (torch.ones(9, 4, dtype=torch.int64), r"int64 \(1, 4\)"),
        ({"x": torch.randn(9, 4)}, r"x: float32 \(1, 4\): TypeError.*forward\(input\)"),
    ],
)
def test_inputs_a_network_does_not_take_are_told_beside_what_it_takes(tmp_path, given, came):
    with pytest.raises(InputError, match=came):
        moeash.compress(
            nn.Linear(4, 2),
            tmp_path / "a.moeash",
            candidate={"k": 30, "rate": 0.0},
            method=FEEDBACK,
            calibration=given,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_search_over_a_network_of_several_arguments_is_exported_and_continued(tmp_path):
    network = Net(lambda y: {"scores": y, "hidden": y})
    with torch.no_grad():
        expected = network(TOKENS, MASK)["scores"]

    def closeness(module):
        with torch.no_grad():
            return -float((module(TOKENS, MASK)["scores"] - expected).square().mean())

    def search():
        return moeash.search(
            network,
            evaluate=closeness,
            method=FEEDBACK,
            calibration=BY_NAME,
            output=lambda returned: returned["scores"],
            population=4,
            generations=1,
            storage=str(tmp_path / "a.db"),
            name="several",
            spec={"merge": {"trials": 0}},
        )

    first = search()
    again = search()
    assert [e.outcome for e in again.evaluations()] == [e.outcome for e in first.evaluations()]
    report = moeash.export(again, tmp_path / "a.moeash", pick="best")
    loaded = moeash.load(tmp_path / "a.moeash", into=Net(lambda y: {"scores": y}))
    assert closeness(loaded) == pytest.approx(report.solution["metric"], rel=1e-6)
