"""GPFQ as a method: an alphabet a layer, and no merging."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from moeash.core.solutions.candidate import Candidate
from moeash.errors import InputError
from moeash.methods.gpfq.method import Gpfq
from moeash.methods.gpfq.options import GpfqOptions
from moeash.networks.loading.sources import load_network
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import (
    MethodContract,
    accuracy,
    prepare,
)
from tests.marks import slow

SMALL = GpfqOptions(levels=(1, 8), images=60)


class TestGpfq(MethodContract):
    accurate = 0.9  # l0 sends a fifth of these small weights to zero

    @pytest.fixture(
        scope="class",
        params=[
            SMALL,
            slow(replace(SMALL, variant="l0")),
            slow(replace(SMALL, variant="stochastic", bias_correction=True)),
        ],
        ids=["nearest", "l0", "stochastic, corrected"],
    )
    @classmethod
    def options(cls, request):
        return request.param


def compressed(options, network, splits, levels):
    method = Gpfq(options)
    ready = prepare(method, network, splits)
    return method.compress(ready, Candidate.of({"levels": levels}), network=network)


def test_gpfq_has_a_codebook_a_layer_and_needs_calibration(network, splits):
    shared = compressed(SMALL, network, splits, 2)
    assert len(shared.codebooks) == 4
    assert all(len(book) <= 5 for book in shared.codebooks)
    with pytest.raises(InputError, match="gpfq needs calibration images"):
        prepare(Gpfq(SMALL), network, {})


@pytest.mark.parametrize("variant", ["l0", slow("l1"), slow("stochastic")])
def test_every_variant_is_repeatable_and_another_one(network, splits, variant):
    options = replace(SMALL, variant=variant)
    first, again, plain = (
        compressed(chosen, network, splits, 4) for chosen in (options, options, SMALL)
    )
    assert first.fingerprint() == again.fingerprint() != plain.fingerprint()
    assert accuracy(network, first, splits["search"]) > 0.9  # float: 0.9889
    if variant == "l1":  # it shrinks
        zeros = [
            sum(int(t.counts[s.codebooks[t.codebook].entries == 0].sum()) for t in s.shared)
            for s in (first, plain)
        ]
        assert zeros[0] > zeros[1]


def test_gpfq_says_how_many_weights_it_quantises(network, splits):
    (note,) = Gpfq(SMALL).notes(prepare(Gpfq(SMALL), network, splits))
    assert note == "54,864 weights are quantised by GPFQ from 60 images"


def test_gpfq_does_not_count_a_layer_the_network_never_calls(splits):
    module = load_network("digits-cnn")
    module.spare = torch.nn.Linear(3, 3)
    odd = Network(module, read_state(module), "odd")
    notes = prepare(Gpfq(SMALL), odd, splits).notes
    assert notes[0].startswith("54,864 weights")
    assert notes[1] == ("spare.weight is kept: its layer was not called by the calibration run")


def test_gpfq_names_what_it_keeps(splits):
    module = load_network("digits-cnn")
    module.register_parameter("scale", torch.nn.Parameter(torch.ones(2, 2)))
    odd = Network(module, read_state(module), "odd")
    method = Gpfq(SMALL)
    ready = prepare(method, odd, splits)
    assert any(
        "scale is kept: DigitsCNN does not multiply with it as a layer does" in n
        for n in ready.notes
    )
    shared = method.compress(ready, Candidate.of({"levels": 2}), network=odd)
    assert "scale" in [t.name for t in shared.kept]


def test_gpfq_bias_correction_changes_biases_only(network, splits):
    one, two = (
        compressed(replace(SMALL, bias_correction=corrected), network, splits, 1)
        for corrected in (False, True)
    )
    pairs = zip(one.kept, two.kept, strict=True)
    changed = [a.name for a, b in pairs if not np.array_equal(a.values, b.values)]
    assert changed and all(name.endswith("bias") for name in changed)


def test_layers_that_are_not_shared_are_neither_quantised_nor_taken_for_quantised(splits):
    module = load_network("digits-cnn")
    some = Network(module, read_state(module, exclude=["conv*"]), "digits-cnn")
    shared = compressed(SMALL, some, splits, 2)
    assert [t.name for t in shared.shared] == ["fc1.weight", "fc2.weight"]
    # fc1 is the first layer whose inputs are float ones, as if convolutions could not be quantised.
    whole = Network(module, read_state(module), "digits-cnn")
    both = {t.name: t for t in compressed(SMALL, whole, splits, 2).shared}
    alone = {t.name: t for t in shared.shared}
    assert not np.array_equal(alone["fc1.weight"].indices, both["fc1.weight"].indices)
    method = Gpfq(SMALL)
    assert method.most_entries(prepare(method, some, splits)) == 2 * 17


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"levels": (3, 2)}, "method.levels is [3, 2], needed [low, high] with 1 <= low <= high"),
        ({"scale": 0.0}, "method.scale is 0.0, needed a number above 0"),
        ({"variant": "l2"}, 'needed "nearest", "l0", "l1" or "stochastic"'),
        ({"images": 0}, "method.images is 0, needed an integer of at least 1"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        GpfqOptions(**wrong)
