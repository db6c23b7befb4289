import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.core.codebook import KeptTensor, SharedWeights, TiedTensor
from moeash.errors import CheckpointError, CorruptContainerError
from moeash.networks.loading.sources import load_network
from tests.marks import slow


def test_load_into_gives_the_module_the_decoded_weights(tiny):
    module = load_network("digits-cnn")
    assert moeash.load_into(module, tiny.file) is module
    arrays = moeash.read(tiny.file)
    state = module.state_dict()
    assert list(arrays) == list(state)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


@pytest.mark.parametrize("wrap", [nn.DataParallel, slow(torch.compile), nn.Identity])
@pytest.mark.parametrize("other", [nn.DataParallel, slow(torch.compile), nn.Identity])
def test_load_into_finds_the_network_inside_a_wrapper(tmp_path, wrap, other):
    plain = {nn.Identity: lambda module: module}
    source = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).eval()
    moeash.compress(plain.get(wrap, wrap)(source), tmp_path / "x.moeash", candidate={"k": 4})
    target = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    moeash.load_into(plain.get(other, other)(target), tmp_path / "x.moeash")
    arrays = list(moeash.read(tmp_path / "x.moeash").values())
    for tensor, array in zip(target.state_dict().values(), arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_load_into_another_architecture_changes_nothing(tiny):
    module = nn.Linear(3, 4)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError):
        moeash.load_into(module, tiny.file)
    assert torch.equal(module.weight, before)


def test_tied_names_count_as_often_as_they_are_loaded(tmp_path):
    zeros = np.zeros((1000, 1000), np.float32)
    tensors = [KeptTensor("w", zeros.shape, "float32", zeros)]
    tensors += [TiedTensor(f"t{i}", "w") for i in range(100)]
    container.write(tmp_path / "x.moeash", SharedWeights((), tuple(tensors)))
    module = nn.Linear(1000, 1000, bias=False)
    with pytest.raises(CorruptContainerError, match="max_bytes"):
        moeash.load_into(module, tmp_path / "x.moeash")
    with pytest.raises(CheckpointError):  # enough memory, but another architecture
        moeash.load_into(module, tmp_path / "x.moeash", max_bytes=1 << 30)
