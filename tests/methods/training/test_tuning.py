import numpy as np
import pytest
import torch

from moeash.core.codebook import Codebook, SharedTensor, SharedWeights
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Tune
from moeash.data.unlabelled import Unlabelled
from moeash.methods.registry import build_method
from moeash.methods.training.losses import Outputs, divergence
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.tuning import REACH, Tuning, entries_at, tune
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import prepare
from tests.methods.training.test_distilling import measured

STEP = Tune(epochs=3, batch_size=64)


@pytest.mark.slow
def test_outputs_come_closer_and_every_index_stays(solution, network, session, splits):
    tuned = tune(STEP, solution, network, session())
    assert measured(network, splits, tuned) < 0.9 * measured(network, splits, solution)
    for before, after in zip(solution.shared, tuned.shared, strict=True):
        assert np.array_equal(before.indices, after.indices)
    assert len(tuned.codebooks[0]) == len(solution.codebooks[0])
    assert not np.array_equal(tuned.codebooks[0].entries, solution.codebooks[0].entries)


def test_the_gradient_of_an_entry_is_that_of_finite_differences(solution, network, splits):
    # Float64 and a smooth loss: activations of a small float32 network have kinks everywhere.
    torch.manual_seed(0)
    layers = {t.name: t for t in solution.shared if t.name.startswith("fc")}
    indices = {
        n: torch.from_numpy(t.indices.astype("int64")).reshape(t.shape) for n, t in layers.items()
    }
    inputs = {n: torch.randn(5, t.shape[1], dtype=torch.float64) for n, t in layers.items()}

    def loss(entries):
        return sum(
            torch.tanh(inputs[n] @ entries_at(entries, indices[n]).T).square().mean()
            for n in layers
        )

    entries = torch.tensor(solution.codebooks[0].entries).double().requires_grad_()
    assert layers
    assert torch.autograd.gradcheck(loss, entries, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_a_whole_networks_gradient_of_an_entry_is_that_of_finite_differences():
    """An entry that weights of two layers use, in float64 and without kinks."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4)
    module = torch.nn.Sequential(*layers).double().eval()
    network = Network(module, read_state(module), "smooth")
    method = build_method(UniformOptions(k=(2, 64)))
    start = method.compress(prepare(method, network, {}), Candidate.of({"k": 6}), network=network)
    images = Unlabelled(torch.randn(32, 6, dtype=torch.float64), at_most=32)
    session = Session(images, TrainingOptions(batch_size=32), 1)
    trainee = Tuning(Tune(epochs=1, batch_size=32), start, network, session)
    (seen,) = session.seen(0, 1, 1)
    (moved,) = trainee.moving().values()
    kept = {t.name: torch.tensor(start.values(t)) for t in start.kept}

    def loss_with(entries):
        weights = {
            t.name: entries[torch.from_numpy(t.indices.astype("int64"))].reshape(t.shape)
            for t in start.shared
        }
        return divergence(
            Outputs(module, "cpu")({**kept, **weights}, seen.inputs).double(),
            Outputs(module, "cpu")({}, seen.inputs).double(),
        )

    trained = divergence(
        Outputs(module, "cpu")({**kept, **trainee.weights(seen)}, seen.inputs).double(),
        Outputs(module, "cpu")({}, seen.inputs).double(),
    )
    (gradient,) = torch.autograd.grad(trained, moved)
    entries = torch.tensor(start.codebooks[0].entries).double()
    assert (start.shared[0].counts > 0).any() and (start.shared[1].counts > 0).any()
    step = 1e-2
    for i, unit in enumerate(torch.full_like(entries, step).diag()):
        slope = (loss_with(entries + unit) - loss_with(entries - unit)) / (2 * step)
        want = slope * trainee._entries[0].unit[i]
        torch.testing.assert_close(gradient[i].double(), want, rtol=0.02, atol=1e-6)


@pytest.mark.slow
def test_entries_keep_their_order_and_zero_stays_zero(solution, network, session, monkeypatch):
    monkeypatch.setattr("moeash.methods.training.tuning.MOVED_A_STEP", 1.0)
    tuned = tune(STEP, solution, network, session())
    before, after = (s.codebooks[0].entries.astype(float) for s in (solution, tuned))
    gaps = np.diff(before)
    below, above = np.r_[gaps[0], gaps], np.r_[gaps, gaps[-1]]
    assert (after >= before - (REACH + 1e-5) * below).all()
    assert (after <= before + (REACH + 1e-5) * above).all()
    assert np.abs(after - before).max() > 0.4 * gaps.min()
    assert (after[before == 0] == 0).all()


def test_a_codebook_of_one_entry_can_be_tuned(network, splits, session):
    method = build_method(UniformOptions(k=(1, 2)))
    one = method.compress(prepare(method, network, splits), Candidate.of({"k": 1}), network=network)
    assert len(one.codebooks[0]) == 1
    tuned = tune(Tune(epochs=1, batch_size=256), one, network, session())
    assert len(tuned.codebooks[0]) == 1
    assert np.isfinite(tuned.codebooks[0].entries).all()


def test_a_saved_tuning_goes_on_with_the_same_bits(solution, network, session):
    first, second = (Tuning(STEP, solution, network, session()) for _ in range(2))
    for trainee in (first, second):
        trainee.begin(0)
    seen = list(session().seen(0, 4, 10))
    for one in seen:
        first.step(one)
    for one in seen[:2]:
        second.step(one)
    third = Tuning(STEP, solution, network, session())
    third.begin(0)
    third.load({n: t.clone() for n, t in second.tensors().items()})
    for one in seen[2:]:
        third.step(one)
    assert third.shared().fingerprint() == first.shared().fingerprint()


def test_gradients_of_entries_have_the_same_bits_whatever_the_threads():
    """Sums of float32 in another order end with other bits; torch's own have no order."""
    rng = np.random.default_rng(0)
    indices = rng.integers(0, 3, 400_000).astype(np.uint8)
    counts = np.bincount(indices, minlength=3)
    codebook = Codebook(np.array([-0.5, 0.0, 0.5], np.float32))
    tensor = SharedTensor("weight", (800, 500), "float32", 0, indices, counts)
    module = torch.nn.Linear(500, 800, bias=False)
    start = SharedWeights((codebook,), (tensor,))
    images = Unlabelled(torch.from_numpy(rng.normal(size=(64, 500)).astype(np.float32)), at_most=64)
    session = Session(images, TrainingOptions(batch_size=64), 1)
    linear = Network(module, read_state(module), "linear")
    trainee = Tuning(Tune(epochs=1, batch_size=64), start, linear, session)
    (seen,) = session.seen(0, 1, 1)
    weight = trainee.weights(seen)["weight"]
    upstream = torch.from_numpy(rng.normal(size=(800, 500)).astype(np.float32))
    (moved,) = trainee.moving().values()
    (gradient,) = torch.autograd.grad(weight, moved, upstream)
    sums = [upstream.flatten().double()[torch.from_numpy(indices == i)].sum() for i in range(3)]
    want = torch.stack(sums).float() * torch.tensor([0.5, 0.0, 0.5])
    assert torch.equal(gradient, want)
