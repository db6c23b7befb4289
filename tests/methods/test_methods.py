"""What every method promises, whatever it does inside; and what sets each apart."""

import copy
import pickle

import numpy as np
import pytest
import torch

from moeash.codec.adaptive import coder as adaptive
from moeash.codec.layout import lay_out
from moeash.codec.size import size
from moeash.core.candidate import Candidate
from moeash.core.codebook import keep_all
from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.errors import InputError
from moeash.methods.base import Preparation
from moeash.methods.feedback.method import Feedback
from moeash.methods.gpfq.method import Gpfq
from moeash.methods.registry import METHODS
from moeash.methods.uniform.method import Uniform
from moeash.networks.inplace import WeightWriter
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from moeash.networks.sources import load_network
from moeash.searches.space import Space
from studies.digits_cnn import SPLITS

SMALL = {
    "uniform": Uniform(k=(2, 40)),
    "feedback": Feedback(k=(2, 40), images=60, sketches=1, batch_size=30),
    "gpfq": Gpfq(levels=(1, 8), images=60, batch_size=30),
}


@pytest.fixture(scope="module")
def network():
    module = load_network("digits-cnn")
    return Network(module, read_state(module), "digits-cnn")


@pytest.fixture(scope="module")
def splits():
    return draw_splits(load_source("digits"), SPLITS)


def prepared(method, network, splits, **changes):
    given = {"seed": 3, "n_threads": 1, **changes}
    return method.prepare(Preparation(network=network, splits=splits, **given))


def middle(method):
    space = Space(tuple(method.space()))
    return space.decode((space.lower + space.upper) / 2)


def accuracy(network, shared, split):
    writer = WeightWriter(network.module, network.state)
    writer.write(shared)
    with torch.inference_mode():
        right = [(network.module(x).argmax(1) == y).float().mean() for x, y in split.batches(450)]
    writer.restore()
    return float(right[0])


def test_every_registered_method_is_tested_here():
    assert set(SMALL) == set(METHODS)


@pytest.mark.parametrize("method", SMALL.values(), ids=SMALL)
class TestEveryMethod:
    """The contract of :class:`moeash.methods.base.Method`."""

    def test_compressing_twice_gives_the_same_weights(self, method, network, splits):
        ready = prepared(method, network, splits)
        first = method.compress(ready, middle(method))
        again = method.compress(prepared(method, network, splits), middle(method))
        assert first.fingerprint() == again.fingerprint()

    def test_prepared_arrays_survive_the_trip_to_a_worker(self, method, network, splits):
        ready = prepared(method, network, splits)
        there = pickle.loads(pickle.dumps(ready))
        want = method.compress(ready, middle(method)).fingerprint()
        assert method.compress(there, middle(method)).fingerprint() == want

    def test_the_network_is_never_touched(self, method, network, splits):
        before = copy.deepcopy(network.module.state_dict())
        method.compress(prepared(method, network, splits), middle(method))
        after = network.module.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)

    def test_what_a_candidate_left_in_the_module_does_not_matter(self, method, network, splits):
        ready = prepared(method, network, splits)
        want = method.compress(ready, middle(method)).fingerprint()
        writer = WeightWriter(network.module, network.state)
        writer.write(method.compress(ready, Candidate.of(middle(method).as_dict())))
        got = method.compress(ready, middle(method)).fingerprint()
        writer.restore()
        assert got == want

    def test_every_weight_is_an_entry_and_every_entry_is_used(self, method, network, splits):
        shared = method.compress(prepared(method, network, splits), middle(method))
        assert shared.n_shared == 54864
        used = [np.zeros(len(book), dtype=np.int64) for book in shared.codebooks]
        for tensor in shared.shared:
            counted = np.bincount(tensor.indices, minlength=len(tensor.counts))
            assert (counted == tensor.counts).all()
            used[tensor.codebook] += tensor.counts
        assert all((counts > 0).all() for counts in used)

    def test_more_symbols_come_closer_to_the_network(self, method, network, splits):
        ready = prepared(method, network, splits)
        space = Space(tuple(method.space()))
        split = splits["search"]
        coarse = accuracy(network, method.compress(ready, space.decode(space.lower)), split)
        fine = accuracy(network, method.compress(ready, space.decode(space.upper)), split)
        assert coarse < fine
        assert fine > 0.97  # float: 0.9889


def test_feedback_beats_nearest_bins_at_fewer_bytes(network, splits):
    feedback, nearest = Feedback(k=(2, 40), images=100, batch_size=50), SMALL["uniform"]
    ours = feedback.compress(
        prepared(feedback, network, splits), Candidate.of({"k": 24, "rate": 0.03})
    )
    theirs = nearest.compress(prepared(nearest, network, splits), Candidate.of({"k": 9}))
    split = splits["search"]
    assert size(ours).total < size(theirs).total
    assert accuracy(network, ours, split) > accuracy(network, theirs, split) + 0.02


def test_the_coder_finds_the_trellis_of_feedback_and_saves_by_it(network, splits):
    method = Feedback(k=(2, 60), images=100, batch_size=50, trellis=8)
    ready = prepared(method, network, splits)
    shared = method.compress(ready, Candidate.of({"k": 41, "rate": 0.05}))
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
    method = Feedback(k=(2, 40), trellis=4)
    shared = method.compress(prepared(method, network, {}), Candidate.of({"k": 40, "rate": 0.05}))
    (part,) = lay_out(shared, coder="adaptive").adaptive
    assert set(part.trellises) == {4}


def test_there_are_trellises_of_4_8_and_16_states():
    with pytest.raises(InputError, match=r"method.trellis must be one of \(0, 4, 8, 16\), got 2"):
        Feedback(trellis=2)


def test_feedback_without_calibration_goes_to_nearest_entries_and_says_so(network):
    method = SMALL["feedback"]
    ready = prepared(method, network, {})
    (note,) = method.notes(ready)
    assert "no calibration split" in note and "[data.splits.calibration]" in note
    shared = method.compress(ready, Candidate.of({"k": 20, "rate": 0.05}))
    entries = shared.codebooks[0].entries
    for tensor in shared.shared:
        (weights,) = [p.values for p in network.state if p.name == tensor.name]
        distance = np.abs(weights.ravel()[:, None].astype(float) - entries[None].astype(float))
        chosen = np.take_along_axis(distance, tensor.indices[:, None].astype(int), axis=1)[:, 0]
        assert (chosen <= distance.min(axis=1) + 1e-7).all()


def test_feedback_says_how_many_weights_it_assigns(network, splits):
    method = SMALL["feedback"]
    (note,) = method.notes(prepared(method, network, splits))
    assert note.startswith("54,864 weights in 4 layers are assigned with feedback from 60 ")


def test_feedback_moves_kept_tensors_in_their_own_precision(network, splits):
    method = SMALL["feedback"]
    shared = method.compress(
        prepared(method, network, splits), Candidate.of({"k": 12, "rate": 0.05})
    )
    plain = keep_all(network.state)
    moved = [t.name for t in shared.kept if not np.array_equal(t.values, plain[t.name].values)]
    assert "fc2.bias" in moved
    assert {str(t.values.dtype) for t in shared.kept if t.dtype == "float32"} == {"float32"}


def test_gpfq_has_a_codebook_a_layer_and_needs_calibration(network, splits):
    method = SMALL["gpfq"]
    shared = method.compress(prepared(method, network, splits), Candidate.of({"levels": 2}))
    assert len(shared.codebooks) == 4
    assert all(len(book) <= 5 for book in shared.codebooks)
    with pytest.raises(InputError, match="gpfq needs calibration images"):
        prepared(method, network, {})


@pytest.mark.parametrize("variant", ["l0", "l1", "stochastic"])
def test_every_gpfq_variant_compresses_and_is_repeatable(network, splits, variant):
    method = Gpfq(levels=(1, 8), images=60, variant=variant, threshold=0.01)
    ready = prepared(method, network, splits)
    candidate = Candidate.of({"levels": 4})
    first = method.compress(ready, candidate)
    assert method.compress(ready, candidate).fingerprint() == first.fingerprint()
    plain = SMALL["gpfq"].compress(prepared(SMALL["gpfq"], network, splits), candidate)
    assert first.fingerprint() != plain.fingerprint()
    assert accuracy(network, first, splits["search"]) > 0.9  # float: 0.9889
    zeros = [
        sum(int(t.counts[s.codebooks[t.codebook].entries == 0].sum()) for t in s.shared)
        for s in (first, plain)
    ]
    if variant == "l1":
        assert zeros[0] > zeros[1]  # it shrinks


def test_gpfq_says_how_many_weights_it_quantises(network, splits):
    (note,) = SMALL["gpfq"].notes(prepared(SMALL["gpfq"], network, splits))
    assert note == "54,864 weights are quantised by GPFQ from 60 images"


def test_gpfq_does_not_count_a_layer_the_network_never_calls(splits):
    module = load_network("digits-cnn")
    module.spare = torch.nn.Linear(3, 3)
    odd = Network(module, read_state(module), "odd")
    notes = prepared(SMALL["gpfq"], odd, splits).notes
    assert notes[0].startswith("54,864 weights")
    assert notes[1] == ("spare.weight is kept: its layer was not called by the calibration run")


def test_gpfq_names_what_it_keeps(splits):
    module = load_network("digits-cnn")
    module.register_parameter("scale", torch.nn.Parameter(torch.ones(2, 2)))
    odd = Network(module, read_state(module), "odd")
    method = SMALL["gpfq"]
    ready = prepared(method, odd, splits)
    assert any(
        "scale is kept: DigitsCNN does not multiply with it as a layer does" in n
        for n in ready.notes
    )
    shared = method.compress(ready, Candidate.of({"levels": 2}))
    assert "scale" in [t.name for t in shared.kept]


def test_gpfq_bias_correction_changes_biases_only(network, splits):
    plain, corrected = SMALL["gpfq"], Gpfq(levels=(1, 8), images=60, bias_correction=True)
    candidate = Candidate.of({"levels": 1})
    one = plain.compress(prepared(plain, network, splits), candidate)
    two = corrected.compress(prepared(corrected, network, splits), candidate)
    pairs = zip(one.kept, two.kept, strict=True)
    changed = [a.name for a, b in pairs if not np.array_equal(a.values, b.values)]
    assert changed and all(name.endswith("bias") for name in changed)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Feedback(k=(0, 3)), "k must be"),
        (lambda: Feedback(rate=(0.0, 0.1)), "rate must be"),
        (lambda: Feedback(images=0), "at least 1"),
        (lambda: Gpfq(levels=(3, 2)), "levels must be"),
        (lambda: Uniform(k=(5, 4)), "k must be"),
        (lambda: Uniform(clip=(1.0, 1.0)), "clip must be"),
    ],
)
def test_options_out_of_range_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("method", [Feedback(images=45), Gpfq(images=45)], ids=["feedback", "gpfq"])
def test_fewer_images_than_the_split_holds_are_drawn_from_all_classes(method, network):
    class Sorted:
        """A split of 900 images sorted by class that remembers who was asked for."""

        def __len__(self):
            return 900

        def batches(self, batch_size, order=None):
            self.classes = set(order // 100)
            yield torch.rand(len(order), 1, 8, 8), torch.from_numpy(order // 100)

    split = Sorted()
    prepared(method, network, {"calibration": split})
    assert split.classes == set(range(9))


@pytest.mark.parametrize(
    ("n_images", "rows", "damping", "same"),
    [
        (60, "coupled", "auto", 0.5),
        (60, "independent", "auto", 0.5),
        (400, "coupled", "auto", 0.1),
        (400, "coupled", None, 0.075),
        (400, "independent", "auto", 0.075),
    ],
)
def test_damping_by_itself_is_larger_for_few_images(network, splits, n_images, rows, damping, same):
    some = {"k": (2, 40), "images": n_images, "sketches": 1, "rows": rows}
    candidate = Candidate.of({"k": 20, "rate": 0.03})
    by_itself, given, other = (
        method.compress(
            prepared(method, network, {"calibration": splits["train"]}), candidate
        ).fingerprint()
        for method in (Feedback(damping=d, **some) for d in (damping, same, same * 1.5))
    )
    assert by_itself == given != other


def test_a_damping_in_another_word_is_refused():
    with pytest.raises(InputError, match=r"method\.damping must be a number or 'auto'"):
        Feedback(damping="much")


def test_a_searched_damping_is_a_power_of_ten_of_the_given_one(network, splits):
    three = Feedback(images=60, sketches=1, damping=0.1, dampings=3)
    assert [(v.name, v.low, v.high) for v in three.space()][-1] == ("damping", -1, 1)
    ready = prepared(three, network, splits)
    values = {"k": 20, "rate": 0.03}
    for half_decades in (-1, 0, 1):
        alone = Feedback(images=60, sketches=1, damping=0.1 * 10 ** (half_decades / 2))
        want = alone.compress(prepared(alone, network, splits), Candidate.of(values))
        got = three.compress(ready, Candidate.of(values | {"damping": half_decades}))
        assert got.fingerprint() == want.fingerprint()
