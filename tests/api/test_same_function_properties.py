"""Whatever norms and buffers are used for, files are the same function as what was measured."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.modules.batchnorm import _BatchNorm

import moeash
from moeash.compression.folding import fold_norms
from moeash.errors import RescalingError
from moeash.methods.feedback.balancing.scales import Balancing, balanced_values
from moeash.methods.feedback.preparing import Settings, prepare
from moeash.networks.network import Network
from moeash.networks.norms import find_norms
from moeash.networks.parameters import read_state
from tests.api.drawn_networks import drawings, inputs


class Notes(list):
    def __call__(self, event):
        if hasattr(event, "text"):
            self.append(event.text)


def compressed(network, x, folder, *, norms="as_they_are", kept="float32", k=4096, method=None):
    notes, path = Notes(), folder / "a.moeash"
    moeash.compress(
        network,
        path,
        candidate={"k": k},
        method=method or {"name": "uniform", "k": [2, 1 << 16]},
        calibration=x if norms != "as_they_are" else None,
        spec={"codec": {"kept": kept, "norms": norms}},
        force=True,
        progress=notes,
    )
    return moeash.load(path, into=copy.deepcopy(network)), notes


def distance(a, b, x):
    with torch.inference_mode():
        expected, got = a(x).double(), b(x).double()
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(drawings, st.sampled_from(["float32", "float16"]))
def test_two_vectors_and_narrow_tensors_are_the_function_or_a_note_says_why_not(
    tmp_path_factory, drawing, kept
):
    network = drawing.network()
    folder = tmp_path_factory.mktemp("drawn")
    x, fresh = inputs(network.spatial, 64, 1), inputs(network.spatial, 64, 2)
    exact, _ = compressed(network, None, folder, k=9)
    found, notes = compressed(network, x, folder, norms="two_vectors", kept=kept, k=9)
    assert distance(exact, found, fresh) < (5e-3 if kept == "float32" else 5e-2)
    # With an eps above 1 no variance makes the scale 1, and nothing is lost by leaving it.
    norms = [norm for norm in find_norms(network, read_state(network)) if norm.eps < 1]
    changed = [norm.weight for norm in norms if not found.state_dict()[norm.mean].any()]
    assert len(changed) == len(norms) or any("stored as they are" in note for note in notes)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(drawings)
def test_folded_norms_are_the_function_and_others_are_named_with_a_reason(drawing):
    network, folded = drawing.network(), drawing.network()
    x, fresh = inputs(network.spatial, 8, 1), inputs(network.spatial, 64, 2)
    found = fold_norms(Network(folded, read_state(folded), "drawn"), x)
    assert distance(network, folded, fresh) < 5e-3
    norms = {name for name, part in network.named_modules() if isinstance(part, _BatchNorm)}
    assert found.network.folded | found.left.keys() == norms
    assert not found.network.folded & found.left.keys()
    assert all(found.left.values())


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(drawings, st.sampled_from([0.25, 0.5, 1.0]), st.booleans())
def test_balanced_rows_are_the_function_or_refused(drawing, exponent, through_norms):
    network = drawing.network()
    x, fresh = inputs(network.spatial, 64, 1), inputs(network.spatial, 64, 2)
    balancing = Balancing(exponent, through_norms=through_norms)
    try:
        prepared = prepare(network, [x], Settings(rows="independent", balancing=balancing))
    except RescalingError:
        return
    twin = copy.deepcopy(network)
    values = balanced_values(prepared.factors, prepared.kept)
    with torch.no_grad():
        for name, value in values.items():
            tensor = twin.state_dict()[name]
            tensor.copy_(value.reshape(tensor.shape))
    assert distance(network, twin, fresh) < 5e-3
