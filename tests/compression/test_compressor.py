"""From a recipe to shared weights: what is made once, what is remembered, what is at hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from moeash.codec.container import encode
from moeash.compression import compressor as compressing
from moeash.compression.compressor import Circumstances, Compressor
from moeash.compression.options import CodecOptions
from moeash.core.kept import Keeping
from moeash.core.solutions.recipe import Merge, Recipe, Refine, Start
from moeash.errors import InputError
from moeash.evaluation.loading import compressor_of
from moeash.methods.feedback.method import Feedback
from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.loading.sources import load_network
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.counting import Counting, Stored
from tests.digits import digits_spec

HALF = Keeping("float16")


@pytest.fixture
def method():
    return Counting(UniformOptions(k=(2, 64)))


def made(method, inputs=None, *, refines=True, norms="two_vectors", **given):
    module = load_network("digits-cnn").eval()
    network = Network(module, read_state(module), "digits-cnn")
    here = Circumstances(CodecOptions(norms=norms), 0, 1, "cpu", 50, refines=refines)
    return Compressor(network, method, here, inputs or {}, **{"keeping": HALF} | given)


def recipe(k, *steps):
    return Recipe.of({"k": k}, *steps)


def counted(method):
    return {candidate["k"]: n for candidate, n in method.compressed.items()}


# ------------------------------------------------------------------ what is remembered


def test_merges_of_one_candidate_compress_it_once_and_leave_it_as_it_is(method):
    compressor = made(method)
    first = compressor.build(recipe(9))
    merge = Merge((2, *[1] * (first.n_entries - 2)))
    merged = compressor.build(recipe(9, merge))
    assert merged.n_entries == first.n_entries - 1
    again = compressor.build(recipe(9))
    assert again.fingerprint() == first.fingerprint() != merged.fingerprint()
    assert counted(method) == {9: 1}


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(method, monkeypatch):
    compressor = made(method)
    n_bytes = sum(tensor.indices.nbytes for tensor in compressor.build(recipe(8)).shared)
    monkeypatch.setattr(compressing, "REMEMBERED_BYTES", 2 * n_bytes)
    for k in (9, 8, 10, 8, 9):  # 10 drives 9 out, not 8, which was used since
        compressor.build(recipe(k))
    assert counted(method) == {8: 1, 9: 2, 10: 1}


def test_what_is_larger_than_the_bound_is_built_all_the_same(method, monkeypatch):
    monkeypatch.setattr(compressing, "REMEMBERED_BYTES", 0)
    compressor = made(method)
    for _ in range(2):
        assert compressor.build(recipe(8)).n_entries <= 8
    assert counted(method) == {8: 2}


def test_a_refined_candidate_is_remembered_apart_from_the_plain_one():
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    method = Feedback(FeedbackOptions(k=(4, 40), images=60, sketches=1))
    compressor = made(method, {"calibration": Inputs(images)})
    point = {"k": 12, "rate": 0.05}
    plain, refined, again = (
        compressor.build(Recipe.of(point, *steps)) for steps in ((), (Refine(),), ())
    )
    assert plain.fingerprint() == again.fingerprint() != refined.fingerprint()
    merge = Merge((refined.n_entries - 1, 1))
    assert compressor.build(Recipe.of(point, Refine(), merge)).n_entries == 2


class Inputs:
    """Unlabelled images, as a method reads them."""

    def __init__(self, images):
        self._images = images

    def __len__(self):
        return len(self._images)

    def batches(self, batch_size, order=None):
        images = self._images if order is None else self._images[torch.as_tensor(order)]
        for part in images.split(batch_size):
            yield part, torch.zeros(len(part), dtype=torch.int64)


# ------------------------------------------------------------------ what is at hand


def test_an_artifact_begins_a_recipe_without_compressing(method):
    first = made(method)
    start = Start(0, encode(first.build(recipe(9))))
    merge = Merge((3, *[1] * (first.build(recipe(9)).n_entries - 3)))
    expected = [first.build(recipe(9, *steps)).fingerprint() for steps in ((), (merge,))]
    unused = Stored(UniformOptions(k=(2, 64)))
    other = made(unused)
    got = [other.build(recipe(9, *steps), start=start).fingerprint() for steps in ((), (merge,))]
    assert got == expected
    assert not unused.compressed


def test_norms_are_measured_again_for_a_merge_of_an_artifact_and_not_for_itself(method):
    images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    compressor = made(method, {"calibration": Inputs(images)}, norms="remeasured")
    first = compressor.build(recipe(9))
    merge = Merge((3, *[1] * (first.n_entries - 3)))
    expected = statistics_of(compressor.build(recipe(9, merge)))
    start = Start(0, encode(first))
    itself = compressor.build(recipe(9), start=start)
    assert itself.fingerprint() == first.fingerprint()
    merged = statistics_of(compressor.build(recipe(9, merge), start=start))
    assert np.abs(statistics_of(first) - expected).max() > 0.05
    # Up to the rounding of kept tensors, with which the artifact begins.
    np.testing.assert_allclose(merged, expected, rtol=0.01, atol=0.002)


def statistics_of(shared):
    kept = [t.values for t in shared.kept if "running_mean" in t.name]
    return np.concatenate(kept).astype(np.float64)


def test_groundwork_of_another_compressor_is_not_made_again(method):
    class Fails(Counting):
        def prepare(self, preparation):
            raise AssertionError("prepared again")

    first = made(method)
    other = made(Fails(method.options), groundwork=first.groundwork)
    assert other.build(recipe(5)).fingerprint() == first.build(recipe(5)).fingerprint()
    assert other.network.state is first.groundwork.state


def test_runs_that_do_not_fit_are_refused(method):
    with pytest.raises(InputError, match="runs"):
        made(method).build(recipe(9, Merge((100, 1))))


# ------------------------------------------------------------------ what is looked at


class Unreadable:
    """A split nobody may look at."""

    def __len__(self):
        return 100

    def batches(self, *_, **__):
        raise AssertionError("images of the search split were looked at")


@pytest.mark.parametrize("norms", ["two_vectors", "remeasured", "folded"])
def test_a_decision_that_is_known_costs_no_image_of_the_search_split(method, norms):
    calibration = Inputs(torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    compressor = made(method, {"calibration": calibration, "search": Unreadable()}, norms=norms)
    shared = compressor.build(recipe(9))
    compressor.restore()
    assert {tensor.values.dtype for tensor in shared.kept if tensor.dtype == "float32"} == {
        np.dtype("float16")
    }


def test_restoring_puts_back_what_was_given(method):
    module = load_network("digits-cnn").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    task = replace(
        digits_spec(codec={"norms": "folded"}).task(), method=method, module=module, keeping=HALF
    )
    with compressor_of(task) as compressor:
        compressor.writer.write(compressor.build(recipe(2)))
        assert any(not torch.equal(v, before[n]) for n, v in module.state_dict().items())
    assert all(torch.equal(v, before[n]) for n, v in module.state_dict().items())
