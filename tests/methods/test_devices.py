"""Methods and trainings where the network is: on the host, or on a GPU."""

import itertools

import pytest
import torch
from torch import nn

from moeash.core.kept import Keeping
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Distill, Tune
from moeash.data.unlabelled import Unlabelled
from moeash.methods.base import Preparation
from moeash.methods.feedback.assignment.columns import assign_feedback
from moeash.methods.feedback.compressing import compress
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.methods.gpfq.layers import quantise_gpfq, symmetric_alphabet
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.pwfn.training import PwfnTraining
from moeash.methods.registry import build_method
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.distilling import Distilling
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.tuning import Tuning
from moeash.methods.uniform.options import UniformOptions
from moeash.methods.wfn.options import WfnOptions
from moeash.methods.wfn.training import WfnTraining
from moeash.networks.loading.builtin import DigitsCNN
from moeash.networks.network import Network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from tests.marks import slow
from tests.methods.training.stopping import Stopped

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def images(n=60):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(device):
    torch.manual_seed(0)
    return DigitsCNN().eval().to(device)


@pytest.fixture
def no_weight_leaves(monkeypatch):
    """Refuse to bring anything as large as a weight matrix to the host."""

    def guarded(name):
        original = getattr(torch.Tensor, name)

        def call(self, *args, **kwargs):
            assert self.numel() < 2000, f"{name} of {tuple(self.shape)}"
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, call)

    for name in ("cpu", "numpy", "tolist", "__array__"):
        guarded(name)


def assign_there(factor, entries, price):
    return assign_feedback(factor, entries, price=price)


@pytest.mark.parametrize("device", DEVICES)
def test_feedback_stays_on_the_networks_device(device, no_weight_leaves):
    settings = Settings(sketches=1, rows="independent")
    prepared = prepare(network(device), images().split(30), settings)
    # On the host the kernel would assign, which needs no device.
    rule = assign_there if device == "cpu" else None
    result = compress(prepared, 20, 0.05, assign=rule)
    assert {f.coupling.device.type for f in prepared.factors} == {device}
    assert {chosen.device.type for chosen in result.indices.values()} == {device}
    assert {value.device.type for value in result.kept.values()} == {device}


@pytest.mark.parametrize("device", DEVICES)
def test_gpfq_stays_on_the_networks_device(device, no_weight_leaves):
    layers = quantise_gpfq(
        network(device), images().split(30), lambda w: symmetric_alphabet(w, levels=4)
    )
    assert {layer.indices.device.type for layer in layers} == {device}


TRAINEES = {
    "wfn": lambda *where: WfnTraining(
        WfnOptions(fractions=(0.5, 1.0), epochs=2), Candidate.of({"delta": 0.05}), *where
    ),
    "pwfn": lambda *where: PwfnTraining(
        PwfnOptions(fractions=(0.5, 1.0), epochs=2), Candidate.of({"delta": 1.0}), *where
    ),
    "distill": lambda network, start, session: Distilling(
        Distill(epochs=4, rate=0.1, batch_size=15, learning_rate=0.3), start, network, session
    ),
    "tune": lambda network, start, session: Tuning(
        Tune(epochs=4, batch_size=15), start, network, session
    ),
}


@pytest.mark.parametrize("arithmetic", [slow("float32"), "bf16"])
@pytest.mark.parametrize("norms", [slow("frozen"), "batch"])
@pytest.mark.parametrize("kind", TRAINEES)
@pytest.mark.parametrize("device", DEVICES)
def test_trainings_stay_on_the_networks_device_and_go_on_there(
    device, kind, norms, arithmetic, tmp_path
):
    module = network(device)
    there = Network(module, read_state(module), "digits")
    method = build_method(UniformOptions(k=(2, 64)))
    prepared = method.prepare(Preparation(network=there, splits={}, seed=0, n_threads=1))
    solution = method.compress(prepared, Candidate.of({"k": 12}), network=there)
    start = Keeping("float16", find_norms(module, there.state)).apply(solution)
    options = TrainingOptions(batch_size=15, norms=norms, arithmetic=arithmetic)

    def session(**changes):
        return Session(Unlabelled(images(), at_most=60), options, 3, device, **changes)

    ticks = itertools.count(0, 61)
    saving = {"checkpoint": Checkpoint(tmp_path, "d" * 32), "clock": lambda: float(next(ticks))}
    with pytest.raises(KeyboardInterrupt):
        session(**saving).train(Stopped(TRAINEES[kind](there, start, session())))
    again = TRAINEES[kind](there, start, session())
    session(**saving).train(again)
    moving = [t for name, t in again.tensors().items() if name.startswith(("kept/", "weight/"))]
    assert moving and {t.device.type for t in moving} == {device}
    shared = again.shared()
    assert shared.fingerprint() != start.fingerprint()
    if device == "cpu":  # sums of a GPU have no order
        whole = TRAINEES[kind](there, start, session())
        session().train(whole)
        assert whole.shared().fingerprint() == shared.fingerprint()


def test_the_guard_would_notice(no_weight_leaves):
    with pytest.raises(AssertionError, match="cpu of"):
        nn.Linear(100, 100).weight.cpu()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_assigns_nearly_all_weights_as_the_cpu_does():
    one, other = (
        compress(prepare(network(device), images().split(30), Settings(sketches=1)), 20, 0.0)
        for device in ("cpu", "cuda")
    )
    for name, chosen in one.indices.items():
        a, b = one.entries[chosen], other.entries.cpu()[other.indices[name].cpu()]
        assert float((a == b).float().mean()) > 0.9
