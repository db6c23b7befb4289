import numpy as np
import torch

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Tune
from moeash.methods.registry import build_method
from moeash.methods.training.tuning import REACH, Tuning, look, tune
from moeash.methods.uniform.options import UniformOptions
from tests.contracts.method import prepare
from tests.methods.training.test_distilling import measured

STEP = Tune(epochs=3, batch_size=64)


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
            torch.tanh(inputs[n] @ look(entries, indices[n]).T).square().mean() for n in layers
        )

    entries = torch.tensor(solution.codebooks[0].entries).double().requires_grad_()
    assert layers
    assert torch.autograd.gradcheck(loss, entries, eps=1e-6, atol=1e-7, rtol=1e-5)


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
    seen = list(session()._seen(0, 4, 10))
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
