import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.errors import CheckpointError, InputError
from moeash.networks.loading.sources import load_network


@pytest.fixture
def linear(tmp_path):
    """A file of a small network."""
    moeash.compress(nn.Linear(4, 3), tmp_path / "x.moeash", candidate={"k": 3}, progress=False)
    return tmp_path / "x.moeash"


@pytest.mark.parametrize(
    ("to", "options", "message"),
    [
        ("y", {"format": "safetensor"}, "no format is called 'safetensor'; nearest: 'safetensors'"),
        ("y.moeash", {}, "is a .moeash file already"),
        ("y.onnx", {}, "holds the computation too; give network= and inputs="),
        ("y.onnx", {"network": nn.Linear(4, 3)}, "give network= and inputs="),
        ("y.pt", {"network": nn.Linear(4, 3)}, "holds the weights alone; leave out network"),
        ("y.pt", {"format": "c"}, "named like a file of format torch"),
    ],
)
def test_what_makes_no_sense_together_is_refused(linear, to, options, message):
    with pytest.raises(InputError, match=message):
        moeash.decompress(linear, linear.with_name(to), **options)
    assert [*linear.parent.iterdir()] == [linear]


def test_tensors_that_do_not_fit_the_network_are_listed(linear):
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3, 5))
            self.scale = nn.Parameter(torch.zeros(3))

    with pytest.raises(CheckpointError) as caught:
        moeash.decompress(
            linear, linear.with_name("y.onnx"), network=Other(), inputs=torch.zeros(2, 4)
        )
    message = str(caught.value)
    assert "1 missing: scale" in message and "1 unexpected: bias" in message
    assert "1 of another shape: weight (3, 4) for (3, 5)" in message
    assert [*linear.parent.iterdir()] == [linear]


@pytest.mark.slow
def test_the_network_that_was_given_stays_as_it_was(linear):
    pytest.importorskip("onnxruntime")
    network = nn.Linear(4, 3).train()
    before = network.weight.detach().clone()
    moeash.decompress(linear, linear.with_name("y.onnx"), network=network, inputs=torch.ones(1, 4))
    assert torch.equal(network.weight, before) and network.training


def test_a_file_is_decompressed_by_its_suffix_and_says_what_it_is_of(moeash, tiny, tmp_path):
    assert moeash("decompress", tiny.file, "--to", "x.pt").code == 0
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    network = load_network("digits-cnn")
    network.load_state_dict(state)
    assert state.moeash["note_network"] == "digits-cnn"
    fingerprint = moeash("verify", tiny.file, "--json").json["fingerprint"]
    assert state.moeash["fingerprint"] == fingerprint


@pytest.mark.slow
def test_a_spec_says_which_network_an_onnx_file_is_of(moeash, tiny, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    answer = moeash("decompress", tiny.file, "--to", "x.onnx")
    assert answer.code == 2 and "--spec with the study's TOML file" in answer.err
    answer = moeash("decompress", tiny.file, "--to", "x.onnx", "--spec", tiny.spec, "--json")
    assert answer.json["size_bytes"] == (tmp_path / "x.onnx").stat().st_size
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    assert session.run(None, {"images": np.zeros((7, 1, 8, 8), np.float32)})[0].shape == (7, 10)


def test_who_hears_of_it_is_told_in_events(linear, tmp_path):
    heard = []
    moeash.decompress(linear, tmp_path / "a.safetensors", progress=heard.append)
    assert {event.kind for event in heard} == {"doing"}
    moeash.decompress(linear, tmp_path / "b.safetensors", progress=False)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
