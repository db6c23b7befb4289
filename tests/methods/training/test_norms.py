"""BatchNorms with the statistics of batches: gathered as torch does, stored, safe from kills."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from moeash.core.kept import Keeping
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Distill, Tune
from moeash.data.unlabelled import Unlabelled
from moeash.errors import InputError
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.pwfn.training import PwfnTraining
from moeash.methods.registry import build_method
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.distilling import Distilling
from moeash.methods.training.losses import Outputs, decoded_tensors
from moeash.methods.training.norms import live_norms, unfold
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.tuning import Tuning
from moeash.methods.uniform.options import UniformOptions
from moeash.methods.wfn.options import WfnOptions
from moeash.methods.wfn.training import WfnTraining
from moeash.networks.network import Network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from tests.contracts.method import prepare
from tests.marks import few_quick, slow
from tests.methods.training.stopping import Stopped

STATISTICS = {
    "1.running_mean",
    "1.running_var",
    "1.num_batches_tracked",
    "4.running_mean",
    "4.running_var",
    "4.num_batches_tracked",
}
STAGES = {"fractions": (0.5, 1.0), "epochs": 2}


def inputs():
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network():
    """A network whose BatchNorms have seen images: their statistics are no constants."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    with torch.no_grad():
        for norm in (module[1], module[4]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
        for _ in range(30):
            module(2 * inputs() + 0.3)
    module.eval()
    return Network(module, read_state(module), "norms")


@pytest.fixture(scope="module")
def start(network):
    """A solution as files have it: two vectors a norm, in float16."""
    method = build_method(UniformOptions(k=(2, 64)))
    shared = method.compress(prepare(method, network, {}), Candidate.of({"k": 24}), network=network)
    return Keeping("float16", find_norms(network.module, network.state)).apply(shared)


@pytest.fixture
def session(network):
    images = Unlabelled(inputs(), at_most=64, network=network.module)

    def make(norms="batch", **changes):
        options = TrainingOptions(batch_size=16, norms=norms)
        return Session(images, options, 3, **changes)

    return make


def trainee_of(kind, network, start, session):
    match kind:
        case "wfn":
            options = WfnOptions(**STAGES, learning_rate=0.01)
            return WfnTraining(options, Candidate.of({"delta": 0.05}), network, start, session)
        case "pwfn":
            options = PwfnOptions(**STAGES, learning_rate=0.01)
            return PwfnTraining(options, Candidate.of({"delta": 1.0}), network, start, session)
        case "distill":
            step = Distill(epochs=4, rate=0.1, learning_rate=0.1)
            return Distilling(step, start, network, session)
        case "tune":
            return Tuning(Tune(epochs=4, batch_size=16), start, network, session)


KINDS = ["wfn", "pwfn", "distill", "tune"]


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_gathered_as_torch_does_and_stored(kind, network, start, session):
    """Before every step a twin gets what the step will compute with, and runs in training mode."""
    trainee = trainee_of(kind, network, start, session())
    twin = copy.deepcopy(network.module)
    for norm in (twin[1], twin[4]):
        norm.train()
    held = {name: value.clone() for name, value in network.module.state_dict().items()}
    met = []

    class Watched:
        def __getattr__(self, name):
            return getattr(trainee, name)

        def step(self, seen):
            if kind == "pwfn":  # its noise is drawn from what the step brings, and only once
                state = seen.noise.get_state()
                weights = dict(trainee._drawn(seen))
                seen.noise.set_state(state)
            else:
                weights = dict(trainee.means if kind == "wfn" else trainee.weights(seen))
            with torch.no_grad():
                for name, tensor in {**trainee._kept.tensors, **weights}.items():
                    twin.state_dict()[name].copy_(tensor)
                twin(seen.inputs)
            loss = trainee.step(seen)
            for name in STATISTICS:
                assert torch.equal(twin.state_dict()[name], trainee._kept.tensors[name]), name
            met.append(trainee._kept.tensors["1.running_mean"].clone())
            return loss

    one = session()
    one.train(Watched())
    assert len(met) > 3 and not torch.equal(met[0], met[1])
    decoded = trainee.shared().decoded()
    if kind in ("wfn", "pwfn"):
        # The last stage moves weights: what is stored is the average over batches with these.
        twin.load_state_dict({n: torch.tensor(v) for n, v in decoded.items()})
        for norm in (twin[1], twin[4]):
            norm.reset_running_stats()
            norm.momentum = None
        with torch.no_grad():
            for seen in one.seen(0, 4, 4):
                twin(seen.inputs)
        assert [network.module[i].momentum for i in (1, 4)] == [0.1, None]
    for name in STATISTICS:
        np.testing.assert_array_equal(decoded[name], twin.state_dict()[name].numpy(), name)
        assert not np.array_equal(decoded[name], start.decoded()[name]), name
    assert all(torch.equal(v, held[n]) for n, v in network.module.state_dict().items())
    assert not any(part.training for part in network.module.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_statistics_stay_what_they_are(kind, network, start, session):
    trainee = trainee_of(kind, network, start, session("frozen"))
    session("frozen").train(trainee)
    decoded = trainee.shared().decoded()
    for name in STATISTICS:
        np.testing.assert_array_equal(decoded[name], start.decoded()[name], name)


def outputs_with(network, shared, training=False):
    module = copy.deepcopy(network.module)
    module.load_state_dict({n: torch.tensor(v) for n, v in shared.decoded().items()})
    for norm in (module[1], module[4]):
        norm.train(training)
    with torch.no_grad():
        return module(inputs())


def test_two_vectors_get_statistics_with_which_the_network_is_the_same_function(network, start):
    """And in training mode nearly the same, which it would not be with those of the float one."""
    norms = live_norms(network)
    kept = {t.name: torch.tensor(start.values(t)) for t in start.kept}
    tensors = {**kept, **decoded_tensors(start, "cpu")}
    run = Outputs(network.module, "cpu")
    before = run(tensors, inputs())
    assert not tensors["1.running_mean"].any()
    unfold(norms, tensors, lambda: run(tensors, inputs()))
    assert tensors["1.running_mean"].abs().max() > 0.1
    torch.testing.assert_close(run(tensors, inputs()), before, rtol=1e-4, atol=1e-5)
    live = Outputs(network.module, "cpu", norms=tuple(norm.module for norm in norms))
    near = (live({n: t.clone() for n, t in tensors.items()}, inputs()) - before).abs().max()
    far = (outputs_with(network, start, training=True) - before).abs().max()
    assert near < 1e-3 and far > 100 * near
    unfolded = {name: tensor.clone() for name, tensor in tensors.items()}
    unfold(norms, tensors, lambda: pytest.fail("there is nothing left to unfold"))
    assert all(torch.equal(unfolded[name], tensor) for name, tensor in tensors.items())


def test_folded_norms_and_those_without_statistics_are_left_alone(network):
    folded = Network(network.module, network.state, "", frozenset({"1"}))
    assert [norm.module for norm in live_norms(folded)] == [network.module[4]]
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    assert live_norms(Network(module, read_state(module), "")) == ()


@pytest.mark.parametrize("saved", ["every step", slow("every stage")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_killed_ends_with_the_same_statistics(
    kind, saved, network, start, session, tmp_path
):
    whole = trainee_of(kind, network, start, session())
    session().train(whole)
    times = iter(range(0, 10**6, 61)) if saved == "every step" else itertools.repeat(0)
    checkpoint = Checkpoint(tmp_path, "0" * 32)

    with pytest.raises(KeyboardInterrupt):
        clocked = session(checkpoint=checkpoint, clock=lambda: float(next(times)))
        clocked.train(Stopped(trainee_of(kind, network, start, clocked)))
    found = checkpoint.read()
    assert (found is not None and found.done > 0) == (saved == "every step")
    again = trainee_of(kind, network, start, session())
    session(checkpoint=checkpoint).train(again)
    assert again.shared().fingerprint() == whole.shared().fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_gathered_is_stored_as_two_vectors_of_the_same_function(
    kind, network, start, session
):
    trainee = trainee_of(kind, network, start, session())
    session().train(trainee)
    shared = trainee.shared()
    stored = Keeping("float32", find_norms(network.module, network.state)).apply(shared)
    assert not stored.decoded()["1.running_mean"].any()
    torch.testing.assert_close(
        outputs_with(network, stored), outputs_with(network, shared), rtol=1e-4, atol=1e-5
    )


def test_batches_of_one_image_have_no_statistics():
    with pytest.raises(InputError, match=r"training.norms = 'batch' needs batches of some images"):
        TrainingOptions(batch_size=1, norms="batch")


@pytest.mark.parametrize("kind", few_quick(KINDS, "distill", "wfn"))
def test_statistics_are_gathered_in_bfloat16_too(kind, network, start, session):
    fast = replace(session(), options=replace(session().options, arithmetic="bf16"))
    trainees = [trainee_of(kind, network, start, where) for where in (session(), fast)]
    for trainee, where in zip(trainees, (session(), fast), strict=True):
        where.train(trainee)
    exact, rough = (trainee.shared().decoded() for trainee in trainees)
    for name in ("1.running_mean", "4.running_var"):
        assert rough[name].dtype == np.float32
        assert not np.array_equal(exact[name], rough[name])
        np.testing.assert_allclose(rough[name], exact[name], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_begins_with_the_function_that_the_solution_is(kind, network, start, session):
    trainee = trainee_of(kind, network, start, session())
    tensors = {n: tensor.detach() for n, tensor in trainee._kept.tensors.items()}
    assert tensors["1.running_mean"].any(), "it has statistics"
    run = Outputs(network.module, "cpu")
    got = run({**tensors, **decoded_tensors(start, "cpu")}, inputs())
    torch.testing.assert_close(got, outputs_with(network, start), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["wfn", "pwfn"])
def test_norms_whose_vectors_are_shared_begin_with_that_function_too(kind, network, start, session):
    all_shared = Network(network.module, read_state(network.module, all=True), "all")
    trainee = trainee_of(kind, all_shared, start, session())
    assert "1.weight" in trainee.means
    tensors = {n: t.detach() for n, t in {**trainee._kept.tensors, **trainee.means}.items()}
    got = Outputs(network.module, "cpu")(tensors, inputs())
    torch.testing.assert_close(got, outputs_with(network, start), rtol=1e-4, atol=1e-5)
    session().train(trainee)
    assert {"1.weight", "1.bias"} <= {t.name for t in trainee.shared().shared}
