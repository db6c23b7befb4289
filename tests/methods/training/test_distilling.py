from dataclasses import replace

import numpy as np
import pytest
import torch

from moeash.core.codebook import KeptTensor
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Distill
from moeash.errors import InputError
from moeash.methods.registry import build_method
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.distilling import Distilling, distill
from moeash.methods.training.losses import Outputs, divergence, float_tensors
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.positions import places_of, tensors_of
from moeash.methods.training.session import Session
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import prepare
from tests.methods.training.test_session import Clock

STEP = Distill(epochs=8, rate=0.3, batch_size=64)


@pytest.fixture(scope="module")
def distilled(solution, network, splits):
    session = Session(splits["train"], TrainingOptions(batch_size=64), 5)
    return distill(STEP, solution, network, session)


def measured(network, splits, shared):
    """Return the divergence of a solution on images no training has seen."""
    tensors = {name: torch.tensor(values) for name, values in shared.decoded().items()}
    images, _ = next(splits["search"].batches(300))
    outputs = Outputs(network.module, "cpu")
    with torch.no_grad():
        wanted = outputs(float_tensors(network, "cpu"), images)
        return divergence(outputs(tensors, images), wanted).item()


def entropy(shared):
    """Return the bits a weight costs by the counts of its tensor."""
    bits = 0.0
    for tensor in shared.shared:
        share = tensor.counts[tensor.counts > 0] / tensor.size
        bits -= tensor.size * float((share * np.log2(share)).sum())
    return bits / sum(tensor.size for tensor in shared.shared)


def test_outputs_come_closer_at_fewer_bits(distilled, solution, network, splits):
    assert measured(network, splits, distilled) < 0.9 * measured(network, splits, solution)
    assert entropy(distilled) < entropy(solution)


@pytest.mark.slow
def test_a_higher_rate_gives_fewer_bits(distilled, solution, network, session):
    dear = distill(replace(STEP, rate=3.0), solution, network, session())
    assert entropy(dear) < 0.9 * entropy(distilled)


def test_weights_lie_between_entries_at_first_and_on_entries_in_the_last_step(
    solution, network, session
):
    trainee = Distilling(STEP, solution, network, session())
    trainee.begin(0)
    places = tensors_of(places_of(solution, "cpu"))
    off = []
    for seen in session().seen(0, 8, 8):
        weights = trainee.weights(seen)
        tensor = solution.shared[0]
        position = trainee.moving()[f"position/{tensor.name}"].detach()
        used = np.flatnonzero(sum(t.counts for t in solution.shared))
        entries = solution.codebooks[0].entries[used]
        between = np.interp(position.numpy(), np.arange(len(entries)), entries)
        rounded = entries[position.numpy().round().astype(int)]
        share = 1 - seen.step / 7
        expected = rounded + share * (between - rounded)
        np.testing.assert_allclose(weights[tensor.name].detach(), expected, atol=1e-6)
        off.append(not np.isin(weights[tensor.name].detach().numpy(), entries).all())
        trainee.step(seen)
    assert off == [False, *[True] * 6, False], "step 0 is the solution"
    assert not torch.equal(places[f"position/{tensor.name}"], position), "it moved"


def test_entries_never_grow_and_keep_their_values(distilled, solution):
    for before, after in zip(solution.codebooks, distilled.codebooks, strict=True):
        assert np.array_equal(before.entries, after.entries)
    used = [np.flatnonzero(sum(t.counts for t in s.shared)) for s in (distilled, solution)]
    assert set(used[0]) <= set(used[1])
    for tensor in distilled.shared:
        n_entries = len(distilled.codebooks[tensor.codebook])
        assert np.array_equal(tensor.counts, np.bincount(tensor.indices, minlength=n_entries))


def test_kept_parameters_move_and_everything_else_is_as_it_was(distilled, solution, network):
    parameters = dict(network.module.named_parameters())
    for before, after in zip(solution.tensors, distilled.tensors, strict=True):
        assert (before.name, before.shape, before.dtype) == (after.name, after.shape, after.dtype)
        if isinstance(before, KeptTensor):
            moved = not np.array_equal(solution.values(before), distilled.values(after))
            assert moved == (before.name in parameters), before.name


def test_the_network_holds_what_it_held(solution, network, session):
    held = {name: value.clone() for name, value in network.module.state_dict().items()}
    modes = [part.training for part in network.module.modules()]
    step = Distill(epochs=1, rate=0.3, batch_size=512, learning_rate=0.5)
    distill(step, solution, network, session())
    assert all(torch.equal(v, held[n]) for n, v in network.module.state_dict().items())
    assert [part.training for part in network.module.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in network.module.parameters())


@pytest.mark.slow
def test_one_seed_gives_one_solution_and_another_seed_another(
    distilled, solution, network, session
):
    again = distill(STEP, solution, network, session())
    other = distill(STEP, solution, network, replace(session(), seed=6))
    assert again.fingerprint() == distilled.fingerprint() != other.fingerprint()


@pytest.mark.slow
def test_no_weight_moves_further_than_all_steps_together(solution, network, session):
    n_steps = STEP.epochs * session().steps_an_epoch
    step = replace(STEP, learning_rate=2 * 1.2 / (n_steps + 1))
    distilled = distill(step, solution, network, session())
    used = np.flatnonzero(sum(t.counts for t in solution.shared))
    moved = np.concatenate(
        [
            np.searchsorted(used, after.indices) - np.searchsorted(used, before.indices)
            for before, after in zip(solution.shared, distilled.shared, strict=True)
        ]
    )
    assert set(moved.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_in_which_no_weight_gets_halfway_is_refused(solution, network, session, epochs):
    steps = epochs * session().steps_an_epoch
    enough = 2 * 0.5 / (steps + 1)
    step = replace(STEP, epochs=epochs, learning_rate=enough * 1.001)
    assert Distilling(step, solution, network, session()).stages == (steps,)
    with pytest.raises(InputError, match=f"would change nothing: .* and {steps} in all move a"):
        Distilling(replace(step, learning_rate=enough * 0.99), solution, network, session())


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 30])
def test_what_was_killed_and_goes_on_is_the_same_solution(
    distilled, solution, network, session, tmp_path, stop_after
):
    checkpoint = Checkpoint(tmp_path, "d" * 32)

    def stop(what, done, total):
        if done >= stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(
            STEP,
            solution,
            network,
            session(checkpoint=checkpoint, clock=Clock(60.0), progress=stop),
        )
    saved = checkpoint.read()
    assert 0 < saved.done < STEP.epochs * session().steps_an_epoch
    again = distill(STEP, solution, network, session(checkpoint=checkpoint))
    assert again.fingerprint() == distilled.fingerprint()


class Blind(torch.nn.Module):
    """A network one of whose layers nothing can be trained through."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.seen, self.unseen = torch.nn.Linear(64, 10), torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.seen(x.flatten(1)) + self.unseen(x.flatten(1)).detach()


def test_weights_no_gradient_reaches_stay_whatever_their_bits(session, splits):
    module = Blind().eval()
    network = Network(module, read_state(module), "blind")
    method = build_method(UniformOptions(k=(2, 64)))
    start = method.compress(
        prepare(method, network, splits), Candidate.of({"k": 12}), network=network
    )
    trained = distill(Distill(epochs=3, rate=3.0, batch_size=64), start, network, session())
    before, after = ({t.name: t.indices for t in s.shared} for s in (start, trained))
    assert np.array_equal(after["unseen.weight"], before["unseen.weight"])
    assert not np.array_equal(after["seen.weight"], before["seen.weight"])


@pytest.mark.slow
def test_labels_alone_teach_where_the_float_network_is_not_asked(solution, network, session):
    losses = []

    def listen(what, done, total):
        if "loss" in what:
            losses.append(float(what.split("loss ")[1]))

    options = TrainingOptions(labels=1.0, batch_size=64)
    distill(Distill(epochs=8, rate=0.0), solution, network, session(options, progress=listen))
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
