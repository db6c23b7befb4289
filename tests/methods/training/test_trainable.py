"""What no training can move is named and stays as it is, whichever trains."""

import numpy as np
import pytest
import torch
from torch import nn

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Distill, Tune
from moeash.data.unlabelled import Unlabelled
from moeash.errors import InputError
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.pwfn.training import PwfnTraining
from moeash.methods.registry import build_method
from moeash.methods.training.distilling import distill
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.trainable import notes_on, reach_of
from moeash.methods.training.tuning import tune, used_by
from moeash.methods.uniform.options import UniformOptions
from moeash.methods.wfn.options import WfnOptions
from moeash.methods.wfn.training import WfnTraining
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import prepare


class Partly(nn.Module):
    """Layers that gradients come back to, and all kinds that they do not come back to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.seen = nn.Linear(12, 8)
        self.unused = nn.Linear(12, 8)
        self.detached = nn.Linear(12, 8)
        self.silent = nn.Linear(12, 8)
        self.counted = nn.Linear(12, 8)
        self.spare = nn.Parameter(torch.randn(3, 4) / 4)
        self.register_buffer("table", torch.randn(8, 8))
        self.last = nn.Linear(8, 5)
        with torch.no_grad():
            self.seen.weight.mul_(3)  # further out than anything hidden

    def forward(self, x):
        y = self.seen(x) + self.detached(x).detach()
        with torch.no_grad():
            silent = self.silent(x)
        counts = (4 * self.counted.weight).to(torch.int8).float()
        return self.last(torch.relu(y + silent + x @ counts.T) @ self.table)


HIDDEN = ("detached.weight", "silent.weight", "counted.weight")
UNUSED = ("spare", "unused.weight")
SEEN = ("seen.weight", "last.weight")
STEP = Distill(epochs=10, rate=3.0, batch_size=16, learning_rate=0.1)


@pytest.fixture(scope="module")
def network():
    module = Partly().eval()
    return Network(module, read_state(module), "partly")


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(64, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def session(network, inputs):
    images = Unlabelled(inputs, at_most=64, network=network.module)
    return Session(images, TrainingOptions(batch_size=16), 3)


@pytest.fixture
def start(network):
    method = build_method(UniformOptions(k=(2, 64)))
    return method.compress(prepare(method, network, {}), Candidate.of({"k": 8}), network=network)


def test_what_no_gradient_comes_back_to_is_told_apart_by_what_the_outputs_say(network, inputs):
    held = {name: value.clone() for name, value in network.module.state_dict().items()}
    reach = reach_of(network, inputs, "cpu")
    assert set(reach.unused) == set(UNUSED)
    assert set(reach.hidden) == set(HIDDEN)
    notes = "\n".join(reach.notes)
    assert "no training looks at unused.weight: the outputs do not depend on it" in notes
    assert "no training moves silent.weight: the outputs depend on it, but no gradient" in notes
    assert len(reach.notes) == 5
    assert all(torch.equal(value, held[n]) for n, value in network.module.state_dict().items())
    assert all(p.grad is None for p in network.module.parameters())


def test_statistics_of_batches_are_nothing_to_a_network_without_norms(network, inputs):
    plain, norms = TrainingOptions(), TrainingOptions(norms="batch")
    told = notes_on(network, inputs, "cpu", plain)
    assert len(told) == 5
    (more,) = notes_on(network, inputs, "cpu", norms)[len(told) :]
    assert more.startswith("training.norms = 'batch' changes nothing: the network has no BatchNorm")
    module = nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5)).eval()
    normed = Network(module, read_state(module), "normed")
    assert notes_on(normed, inputs, "cpu", norms) == ()


class Detached(nn.Linear):
    def forward(self, x):
        return super().forward(x).detach()


class Chosen(nn.Linear):
    def forward(self, x):
        return super().forward(x).argsort(1).float()


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no derivative was ever written")


class Unwritten(nn.Linear):
    def forward(self, x):
        return Backward.apply(super().forward(x))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Detached, "the outputs of Detached have no gradient, so nothing of it can be trained"),
        (Chosen, "the outputs of Chosen have no gradient"),
        (Unwritten, "Unwritten cannot be trained, as taking gradients fails: no derivative was"),
    ],
)
def test_a_network_that_cannot_be_trained_at_all_is_refused(kind, message, inputs):
    module = kind(12, 5).eval()
    with pytest.raises(InputError, match=message):
        reach_of(Network(module, read_state(module), "none"), inputs, "cpu")


@pytest.mark.parametrize(
    ("build", "options", "candidate"),
    [
        (WfnTraining, WfnOptions(fractions=(0.4, 0.8, 1.0), learning_rate=0.01), {"delta": 0.05}),
        (PwfnTraining, PwfnOptions(fractions=(0.4, 0.8, 1.0), learning_rate=0.05), {"delta": 1.0}),
    ],
    ids=["wfn", "pwfn"],
)
def test_free_weights_that_are_not_reached_stay_through_pulls_and_decay(
    network, session, build, options, candidate
):
    trainee = build(options, Candidate.of(candidate), network, None, session)
    moved = dict.fromkeys(trainee.means, 0)

    class Watched:
        def __getattr__(self, name):
            return getattr(trainee, name)

        def step(self, seen):
            before = [{n: t.detach().clone() for n, t in named.items()} for named in leaves]
            loss = trainee.step(seen)
            for now, then in zip(leaves, before, strict=True):
                for name, tensor in now.items():
                    moved[name] += int((tensor.detach() != then[name]).sum())
            return loss

    leaves = [trainee.means, *([trainee.sigmas] if build is PwfnTraining else [])]
    session.train(Watched())
    assert {name for name, n in moved.items() if n} == set(SEEN)


def test_distilling_moves_what_is_reached_alone(network, session, start):
    trained = distill(STEP, start, network, session)
    before, after = ({t.name: t.indices for t in s.shared} for s in (start, trained))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == set(SEEN)


def test_tuning_leaves_the_entries_of_what_is_hidden(network, session, start, inputs):
    tuned = tune(Tune(epochs=3, batch_size=16), start, network, session)
    before, after = (s.codebooks[0].entries for s in (start, tuned))
    (staying,) = used_by(HIDDEN, start)
    assert 0 < staying.sum() < len(before), "the test must have entries of both kinds"
    assert np.array_equal(before[staying], after[staying])
    assert (before[~staying] != after[~staying]).any()
    for tensor in tuned.shared:
        same = np.array_equal(tuned.values(tensor), start.decoded()[tensor.name])
        assert same or tensor.name not in HIDDEN
    kept = {t.name: np.array_equal(t.values, start.decoded()[t.name]) for t in tuned.kept}
    assert kept == {
        "seen.bias": False,
        "unused.bias": True,
        "detached.bias": True,
        "silent.bias": True,
        "counted.bias": True,
        "table": True,
        "last.bias": False,
    }
