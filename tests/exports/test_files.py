import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.errors import CheckpointError
from moeash.networks.sources import load_network


def test_load_into_gives_the_module_the_decoded_weights(tiny):
    module = load_network("digits-cnn")
    assert moeash.load_into(module, tiny.file) is module
    arrays = moeash.read(tiny.file)
    state = module.state_dict()
    assert list(arrays) == list(state)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


def test_load_into_another_architecture_changes_nothing(tiny):
    module = nn.Linear(3, 4)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError):
        moeash.load_into(module, tiny.file)
    assert torch.equal(module.weight, before)


def test_tied_tensors_are_decompressed_under_both_names(tmp_path):
    from safetensors.numpy import load_file

    module = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    module[1].weight = module[0].weight
    moeash.compress(module, tmp_path / "x.moeash", candidate={"k": 4})
    moeash.decompress(tmp_path / "x.moeash", tmp_path / "x.safetensors")
    arrays = load_file(tmp_path / "x.safetensors")
    assert list(arrays) == ["0.weight", "1.weight"]
    np.testing.assert_array_equal(arrays["0.weight"], arrays["1.weight"])
