"""The house method: second-order error feedback on one global codebook."""

import re

import numpy as np
import pytest

from moeash.codec.adaptive import coder as adaptive
from moeash.codec.layout import lay_out
from moeash.codec.size import size
from moeash.core.codebook import keep_all
from moeash.core.solutions.candidate import Candidate
from moeash.errors import InputError
from moeash.methods.feedback.method import Feedback
from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from tests.contracts.method import (
    MethodContract,
    accuracy,
    prepare,
)
from tests.marks import slow


class TestFeedback(MethodContract):
    @pytest.fixture(
        scope="class",
        params=[
            FeedbackOptions(k=(3, 40), images=60, sketches=1),
            slow(FeedbackOptions(images=60, sketches=1)),
            slow(FeedbackOptions(k=(6, 60), images=60, sketches=1, trellis=8)),
            slow(FeedbackOptions(k=(3, 40), rate=(0.03, 0.03), images=60, sketches=1, balance=0.0)),
        ],
        ids=["searched rate", "found k", "trellis", "unbalanced, fixed rate"],
    )
    @classmethod
    def options(cls, request):
        return request.param


def compressed(options, network, splits, values, **way):
    method = Feedback(options)
    ready = prepare(method, network, splits)
    return method.compress(ready, Candidate.of(values), network=network, **way)


SMALL = FeedbackOptions(k=(2, 40), images=60, sketches=1)


def test_feedback_beats_nearest_bins_at_fewer_bytes(network, splits):
    options = FeedbackOptions(k=(2, 40), images=100)
    ours = compressed(options, network, splits, {"k": 24, "rate": 0.03})
    nearest = Uniform(UniformOptions())
    theirs = nearest.compress(
        prepare(nearest, network, splits), Candidate.of({"k": 9}), network=network
    )
    split = splits["search"]
    assert size(ours).total < size(theirs).total
    assert accuracy(network, ours, split) > accuracy(network, theirs, split) + 0.02


def test_the_coder_finds_the_trellis_of_feedback_and_saves_by_it(network, splits):
    options = FeedbackOptions(k=(2, 60), images=100, trellis=8)
    shared = compressed(options, network, splits, {"k": 41, "rate": 0.05})
    layout = lay_out(shared, coder="adaptive")
    (part,) = layout.adaptive
    assert set(part.trellises) == {8}
    tensors = [(tensor.indices, tensor.shape) for tensor in shared.shared]
    zero = int(np.abs(shared.codebooks[0].entries).argmin())
    without = len(adaptive.encode(tensors, len(shared.codebooks[0]), zero))
    assert len(part.stream.data) < 0.85 * without
    assert layout.total_bytes < 0.85 * size(shared, coder="ans").total
    assert accuracy(network, shared, splits["search"]) > 0.97


def test_a_trellis_without_calibration_is_followed_too(network):
    options = FeedbackOptions(k=(2, 40), trellis=4)
    shared = compressed(options, network, {}, {"k": 40, "rate": 0.05})
    (part,) = lay_out(shared, coder="adaptive").adaptive
    assert set(part.trellises) == {4}


def test_there_are_trellises_of_4_8_and_16_states():
    with pytest.raises(InputError, match=r"method.trellis is 2, needed 0, 4, 8 or 16"):
        FeedbackOptions(trellis=2)


def test_feedback_without_calibration_goes_to_nearest_entries_and_says_so(network):
    method = Feedback(SMALL)
    ready = prepare(method, network, {})
    (note,) = method.notes(ready)
    assert "no calibration split" in note and "[data.splits.calibration]" in note
    shared = method.compress(ready, Candidate.of({"k": 20, "rate": 0.05}), network=network)
    entries = shared.codebooks[0].entries
    for tensor in shared.shared:
        (weights,) = [p.values for p in network.state if p.name == tensor.name]
        distance = np.abs(weights.ravel()[:, None].astype(float) - entries[None].astype(float))
        chosen = np.take_along_axis(distance, tensor.indices[:, None].astype(int), axis=1)[:, 0]
        assert (chosen <= distance.min(axis=1) + 1e-7).all()


def test_feedback_says_how_many_weights_it_assigns(network, splits):
    method = Feedback(SMALL)
    (note,) = method.notes(prepare(method, network, splits))
    assert note.startswith("54,864 weights in 4 layers are assigned with feedback from 60 ")


def test_feedback_moves_kept_tensors_in_their_own_precision(network, splits):
    shared = compressed(SMALL, network, splits, {"k": 12, "rate": 0.05})
    plain = keep_all(network.state)
    moved = [t.name for t in shared.kept if not np.array_equal(t.values, plain[t.name].values)]
    assert "fc2.bias" in moved
    assert {str(t.values.dtype) for t in shared.kept if t.dtype == "float32"} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n_images", "least", "scarce"),
    [
        (60, 0.5, {"fc1.weight": 0.25 * (512 / 60) ** 0.5}),
        (400, 0.1, {"fc1.weight": 0.25 * (512 / 400) ** 0.5, "fc2.weight": 0.25 * 0.24**0.5}),
    ],
)
def test_damping_by_itself_is_larger_for_few_images(network, splits, n_images, least, scarce):
    def damped(damping):
        method = Feedback(
            FeedbackOptions(k=(2, 40), images=n_images, sketches=1, damping=damping, balance=0)
        )
        ready = prepare(method, network, {"calibration": splits["train"]})
        return {factor.name: float(factor.damped.mean()) for factor in ready.layers.factors}

    by_itself, given = damped("auto"), damped(least)
    for name, share in by_itself.items():
        expected = damped(scarce[name])[name] if name in scarce else given[name]
        assert share == pytest.approx(expected), name
    for name in scarce:
        assert by_itself[name] > given[name], name


def test_a_damping_in_another_word_is_refused():
    with pytest.raises(
        InputError, match=r"method\.damping is 'much', needed a number above 0 or \"auto\""
    ):
        FeedbackOptions(damping="much")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": (0, 3)}, "method.k[0] is 0, needed an integer of at least 1"),
        ({"k": (4, 3)}, "method.k is [4, 3], needed [low, high] with 1 <= low <= high"),
        ({"rate": (0.0, 0.1)}, "method.rate[0] is 0.0, needed a number above 0"),
        ({"rate": (0.2, 0.1)}, "method.rate is [0.2, 0.1], needed [low, high]"),
        ({"images": 0}, "method.images is 0, needed an integer of at least 1"),
        ({"sketches": 0}, "method.sketches is 0, needed an integer of at least 1"),
        ({"damping": 0.0}, "method.damping is 0.0, needed a number above 0"),
        ({"balance": -0.1}, "method.balance is -0.1, needed a number of at least 0"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        FeedbackOptions(**wrong)


def test_equal_bounds_of_the_rate_fix_it(network, splits):
    fixed = FeedbackOptions(k=(2, 40), rate=(0.03, 0.03), images=60, sketches=1)
    assert [variable.name for variable in fixed.space()] == ["k"]
    alone = compressed(fixed, network, splits, {"k": 20})
    searched = compressed(SMALL, network, splits, {"k": 20, "rate": 0.03})
    assert alone.fingerprint() == searched.fingerprint()


def test_entries_on_a_trellis_are_not_merged_and_need_the_adaptive_coder():
    plain, trellis = SMALL, FeedbackOptions(trellis=4)
    assert (plain.mergeable, plain.needs_coder) == (True, None)
    assert (trellis.mergeable, trellis.needs_coder) == (False, "adaptive")


def test_refining_changes_a_candidate_and_needs_a_preparation_for_it(network, splits):
    method, candidate = Feedback(SMALL), Candidate.of({"k": 12, "rate": 0.05})
    ready = prepare(method, network, splits)
    plain, refined = (
        method.compress(ready, candidate, network=network, refined=way) for way in (False, True)
    )
    assert plain.fingerprint() != refined.fingerprint()
    without = prepare(method, network, splits, refines=False)
    assert without.images is None
    assert method.compress(without, candidate, network=network).fingerprint() == plain.fingerprint()
    with pytest.raises(InputError, match="refines=True"):
        method.compress(without, candidate, network=network, refined=True)


def test_without_calibration_there_is_nothing_to_refine(network):
    plain, refined = (
        compressed(SMALL, network, {}, {"k": 20, "rate": 0.05}, refined=way).fingerprint()
        for way in (False, True)
    )
    assert plain == refined


@pytest.mark.parametrize(("trellis", "bins"), [(0, 64), slow(8, 40)])
def test_a_note_says_when_the_highest_k_holds_no_rows_balanced_as_asked(
    network, splits, trellis, bins
):
    options = FeedbackOptions(k=(2, 64), images=60, sketches=1, balance=0.5, trellis=trellis)
    method = Feedback(options)
    notes = method.notes(prepare(method, network, splits))
    (note,) = [note for note in notes if "balanced by factors" in note]
    assert f"balanced as asked, {bins} bins lose" in note
