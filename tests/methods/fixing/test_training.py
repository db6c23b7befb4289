"""Training in stages: what is fixed stays fixed, whatever the layer and the optimiser."""

import copy
import hashlib
import itertools

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch import nn

from moeash.core.codebook import KeptTensor
from moeash.core.solutions.candidate import Candidate
from moeash.errors import TrainingError
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.pwfn.training import PwfnTraining
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.wfn.options import WfnOptions
from moeash.methods.wfn.training import WfnTraining
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.marks import slow

STAGES = {"fractions": (0.5, 0.9, 1.0), "epochs": 1, "learning_rate": 0.01}

METHODS = {
    "wfn": (WfnTraining, WfnOptions(**STAGES), {"delta": 0.05}),
    "pwfn": (PwfnTraining, PwfnOptions(**STAGES), {"delta": 1.0}),
}


class Images:
    """Labelled random inputs."""

    def __init__(self, inputs, classes=5):
        self.inputs = inputs
        self.labels = torch.randint(classes, (len(inputs),), generator=seeded(1))

    def __len__(self):
        return len(self.inputs)

    def batches(self, batch_size, order=None):
        order = torch.arange(len(self)) if order is None else torch.from_numpy(order)
        for part in order.split(batch_size):
            yield self.inputs[part], self.labels[part]

    def fingerprint(self):
        return hashlib.blake2b(self.inputs.numpy().tobytes(), digest_size=16).hexdigest()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.attention(x, x, x, need_weights=False)[0]).mean(1))


class Words(nn.Module):
    """An embedding tied to the layer that scores words."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 6)
        self.scores = nn.Linear(6, 5, bias=False)
        self.scores.weight = self.words.weight

    def forward(self, x):
        return self.scores(self.words(x).mean(1))


def images(*shape):
    return torch.randn(48, *shape, generator=seeded(2))


def head(features):
    return [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, 5)]


NETWORKS = {
    "linear": (lambda: nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5)), images(7)),
    "conv, norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), *head(6)),
        images(3, 6, 6),
    ),
    "grouped": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), *head(6)), images(4, 6, 6)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), *head(8)), images(4, 6, 6)),
    "dilated": (lambda: nn.Sequential(nn.Conv2d(4, 6, 3, dilation=2), *head(6)), images(4, 6, 6)),
    "attention": (Attention, images(4, 8)),
    "tied embedding": (Words, torch.randint(5, (48, 4), generator=seeded(3))),
}


def network_of(kind, **sharing):
    torch.manual_seed(0)
    module = NETWORKS[kind][0]().eval()
    return Network(module, read_state(module, **sharing), kind)


def session_of(kind, **changes):
    options = TrainingOptions(labels=1.0, batch_size=16)
    return Session(Images(NETWORKS[kind][1]), options, 5, **changes)


def training(method, network, session, start=None, *, candidate=None, **changes):
    build, options, values = METHODS[method]
    options = type(options)(**{**STAGES, **changes})
    return build(options, Candidate.of(candidate or values), network, start, session)


class Watched:
    """A trainee whose fixed weights are compared after every step."""

    def __init__(self, trainee, stop_at=None):
        self.trainee, self.stop_at = trainee, stop_at
        self.moved = self.n_steps = 0

    def __getattr__(self, name):
        return getattr(self.trainee, name)

    def step(self, seen):
        if seen.step == self.stop_at:
            raise KeyboardInterrupt
        leaves = [leaf.detach().clone() for leaf in self.trainee.leaves()]
        loss = self.trainee.step(seen)
        fixed = [~self.trainee.free[name] for name in self.trainee.means]
        for before, after, mask in zip(
            leaves, self.trainee.leaves(), fixed * (len(leaves) // len(fixed)), strict=True
        ):
            assert torch.equal(before[mask], after.detach()[mask])
            self.moved += int((before != after.detach()).sum())
        self.n_steps += 1
        return loss


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_networks_of_every_kind_are_fixed_stage_by_stage(method, kind):
    network, session = network_of(kind), session_of(kind)
    held = copy.deepcopy(network.module.state_dict())
    watched = Watched(training(method, network, session))
    session.train(watched)
    assert watched.n_steps == sum(watched.stages) == 6 + (method == "pwfn")
    assert watched.moved > 0
    shared = watched.shared()
    (codebook,) = shared.codebooks
    assert [t.name for t in shared.tensors] == [p.name for p in network.state]
    assert [type(t).__name__ for t in shared.tensors] == [
        {"shared": "SharedTensor", "kept": "KeptTensor", "tied": "TiedTensor"}[p.role]
        for p in network.state
    ]
    for tensor in shared.shared:
        assert_array_equal(
            shared.values(tensor), watched.means[tensor.name].detach().numpy(), tensor.name
        )
        counted = np.bincount(tensor.indices, minlength=len(codebook))
        assert_array_equal(counted, tensor.counts)
    assert (shared.usage()[0] > 0).all(), "an entry without a weight"
    assert all(torch.equal(v, held[n]) for n, v in network.module.state_dict().items())
    assert not network.module.training


OPTIMISERS = {
    "sgd": lambda leaves: torch.optim.SGD(
        leaves, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True
    ),
    "adam": lambda leaves: torch.optim.Adam(leaves, lr=0.01, weight_decay=0.1),
    "adamw": lambda leaves: torch.optim.AdamW(leaves, lr=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("method", METHODS)
def test_fixed_weights_stay_through_momentum_and_weight_decay(method, optimiser, monkeypatch):
    """Of the optimiser there is one object for all stages, so that it remembers what was free."""
    made = {}

    def same(self, weights, kept):
        return made.setdefault("optimiser", OPTIMISERS[optimiser]([*weights, *kept]))

    monkeypatch.setattr(METHODS[method][0], "_optimiser_of", same)
    network, session = network_of("conv, norm"), session_of("conv, norm")
    watched = Watched(training(method, network, session))
    session.train(watched)  # it compares the fixed weights after every step
    assert watched.n_steps >= 6 and watched.moved > 0


@pytest.mark.parametrize("method", METHODS)
def test_kept_parameters_are_trained_and_statistics_stay(method):
    network, session = network_of("conv, norm"), session_of("conv, norm")
    trainee = training(method, network, session)
    session.train(trainee)
    before = {p.name: p.values for p in network.state}
    changed = {
        t.name
        for t in trainee.shared().tensors
        if isinstance(t, KeptTensor) and not np.array_equal(t.decoded(), before[t.name])
    }
    assert changed == {"0.bias", "1.weight", "1.bias", "5.bias"}


@pytest.mark.parametrize("method", METHODS)
def test_all_parameters_can_be_fixed(method):
    network, session = network_of("conv, norm", all=True), session_of("conv, norm")
    trainee = training(method, network, session)
    session.train(trainee)
    assert {t.name for t in trainee.shared().shared} == {
        name for name, _ in network.module.named_parameters()
    }


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_of_what_it_is_shown(method):
    network, session = network_of("linear"), session_of("linear")

    def loss(shared):
        module = copy.deepcopy(network.module)
        module.load_state_dict({n: torch.from_numpy(a) for n, a in shared.decoded().items()})
        split = Images(NETWORKS["linear"][1])
        return float(nn.functional.cross_entropy(module(split.inputs), split.labels).detach())

    # Without the pull, which at this rate soon gathers all weights at the nearest powers.
    pull = {"regularisation": (0.0, 0.0)} if method == "wfn" else {}
    trained = []
    for epochs in (1, 20):
        trainee = training(method, network, session, epochs=epochs, **pull)
        session.train(trainee)
        trained.append(loss(trainee.shared()))
    assert trained[1] < trained[0] - 0.02


@pytest.mark.parametrize("saved", ["every step", "every stage"])
@pytest.mark.parametrize("stop_at", [slow(0), 2, 3, slow(5)])
@pytest.mark.parametrize("method", METHODS)
def test_what_was_killed_ends_with_the_same_bits(method, stop_at, saved, tmp_path):
    kind = "conv, norm"
    network = network_of(kind)
    want = training(method, network, session_of(kind))
    session_of(kind).train(want)
    # Where every look is a minute later it is saved before every step.
    times = iter(range(0, 10**6, 61)) if saved == "every step" else itertools.repeat(0)
    checkpoint = Checkpoint(tmp_path, "0" * 32)
    session = session_of(kind, checkpoint=checkpoint, clock=lambda: float(next(times)))
    with pytest.raises(KeyboardInterrupt):
        session.train(Watched(training(method, network, session), stop_at=stop_at))
    again = Watched(training(method, network, session))
    session.train(again)
    ends = [0, *itertools.accumulate(again.stages)]
    kept = stop_at if saved == "every step" else max(end for end in ends if end <= stop_at)
    assert again.n_steps == sum(again.stages) - kept
    assert again.shared().fingerprint() == want.shared().fingerprint()


@pytest.mark.parametrize("method", METHODS)
def test_a_solution_can_be_begun_with(method):
    network, session = network_of("linear"), session_of("linear")
    first = training(method, network, session)
    session.train(first)
    start = first.shared()
    again = training(method, network, session, start)
    assert all(
        np.array_equal(start.values(t), again.means[t.name].detach().numpy()) for t in start.shared
    )
    session.train(again)
    assert again.shared().fingerprint() != start.fingerprint()


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_delta_leaves_fewer_entries(method):
    network, session = network_of("linear"), session_of("linear")
    counts = []
    for delta in {"wfn": (0.01, 0.3), "pwfn": (0.5, 50.0)}[method]:
        trainee = training(method, network, session, candidate={"delta": delta})
        session.train(trainee)
        counts.append(trainee.shared().n_entries)
    assert counts[1] < counts[0]


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_become_infinite_end_the_training(method):
    network, session = network_of("linear"), session_of("linear")
    with pytest.raises(TrainingError, match="diverged in stage"):
        session.train(training(method, network, session, learning_rate=1e35))


@pytest.mark.parametrize("method", METHODS)
def test_words_say_how_much_is_fixed(method):
    network, session = network_of("linear"), session_of("linear")
    told = []

    class Telling(Watched):
        def end(self, stage):
            self.trainee.end(stage)
            told.append(self.trainee.words())

    trainee = training(method, network, session)
    assert trainee.words() == "nothing fixed"
    session.train(Telling(trainee))
    # 54 of 108 weights, 97.2 rounded down or up, and all.
    second = {"wfn": "0.8981", "pwfn": "0.9074"}[method]
    assert [words.split(" fixed, ")[0] for words in told] == ["0.5", second, "1"]
    assert all("entries, " in words and words.endswith(" bits") for words in told)


def test_the_pull_has_its_share_of_the_loss_once_something_is_fixed():
    network, session = network_of("linear"), session_of("linear")
    trainee = training("wfn", network, session)
    loss = torch.tensor(2.0)
    assert trainee.addend(loss) is None
    trainee.end(0)
    assert float(trainee.addend(loss).detach()) == pytest.approx(0.8, rel=1e-5)
    candidate = {"delta": 0.05, "regularisation": 0.1}
    other = training("wfn", network, session, candidate=candidate, regularisation=(0.0, 0.8))
    other.end(0)
    assert float(other.addend(loss).detach()) == pytest.approx(0.2, rel=1e-5)


def test_deviations_of_free_weights_are_trained_and_those_of_fixed_ones_are_of_their_entry():
    network, session = network_of("linear"), session_of("linear")
    trainee = training("pwfn", network, session)
    first = {name: sigma.detach().clone() for name, sigma in trainee.sigmas.items()}
    session.train(Watched(trainee))
    assert any(not torch.equal(first[n], s.detach()) for n, s in trainee.sigmas.items())


@pytest.mark.parametrize("method", METHODS)
def test_one_entry_is_told_as_one_of_no_entropy(method):
    network, session = network_of("linear"), session_of("linear")
    trainee = training(method, network, session)
    session.train(trainee)
    tensors = trainee.tensors()
    tensors["fixed/entries"] = torch.zeros(1)
    tensors["fixed/indices"] = torch.zeros_like(tensors["fixed/indices"])
    trainee.load(tensors)
    assert trainee.words() == "1 fixed, 1 entry, 0.00 bits"
