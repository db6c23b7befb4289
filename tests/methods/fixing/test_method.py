"""WFN and PWFN as methods: the contract, and training through a compressor."""

import pytest

from moeash.compression.compressor import Circumstances, Compressor
from moeash.compression.options import CodecOptions
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.methods.pwfn.options import PwfnOptions
from moeash.methods.registry import build_method
from moeash.methods.training.options import TrainingOptions
from moeash.methods.wfn.options import WfnOptions
from tests.contracts.method import MethodContract, accuracy, digits_network

STAGES = {"fractions": (0.5, 0.9, 1.0), "epochs": 1}


class TestFixing(MethodContract):
    accurate = 0.9
    finer_is_lower = True

    @pytest.fixture(
        scope="class",
        params=[
            WfnOptions(delta=(0.02, 0.1), **STAGES),
            PwfnOptions(delta=(0.5, 20.0), **STAGES),
        ],
        ids=["wfn", "pwfn"],
    )
    @classmethod
    def options(cls, request):
        return request.param


@pytest.mark.slow
@pytest.mark.parametrize("options", [WfnOptions(**STAGES), PwfnOptions(**STAGES)])
def test_a_candidate_is_trained_and_its_entries_can_be_merged(options, splits):
    method = build_method(options)
    made = Compressor(
        digits_network(),
        method,
        Circumstances(CodecOptions(), 0, 1, "cpu", 50, training=TrainingOptions(1.0, 64)),
        {"train": splits["search"]},
        search=splits["search"],
    )
    recipe = Recipe(Candidate.of({"delta": 1.0 if options.name == "pwfn" else 0.05}))
    told = []
    shared = made.build(recipe, progress=lambda what, done, total: told.append(what))
    assert any(what.startswith("training, stage 3 of 3") for what in told)
    untrained = method.compress(made.groundwork.prepared, recipe.candidate, network=made.network)
    assert shared.fingerprint() != untrained.fingerprint()
    assert accuracy(made.network, shared, splits["search"]) > 0.9
    assert made.build(recipe).fingerprint() == shared.fingerprint()
    merged = made.build(recipe.then(Merge((2, *[1] * (shared.n_entries - 2)))))
    assert merged.n_entries == shared.n_entries - 1
