import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.errors import CheckpointError, ExportError
from moeash.exports.files import replace_file
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


def test_replacing_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match=r"cannot write .*folder: Is a directory"):
        replace_file(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path):
    (tmp_path / "ordinary").touch()
    replace_file(tmp_path / "x", b"1")
    replace_file(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == b"2"
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
