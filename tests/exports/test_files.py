import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.core.codebook import KeptTensor, SharedWeights, TiedTensor
from moeash.errors import CheckpointError, CorruptContainerError, ExportError
from moeash.networks.loading.sources import load_network
from tests.marks import slow


def test_load_gives_the_module_the_decoded_weights(tiny):
    module = load_network("digits-cnn")
    assert moeash.load(tiny.file, into=module) is module
    arrays = moeash.read(tiny.file)
    state = module.state_dict()
    assert list(arrays) == list(state)
    for name, array in arrays.items():
        np.testing.assert_array_equal(state[name].numpy(), array)


@pytest.mark.parametrize("wrap", [nn.DataParallel, slow(torch.compile), nn.Identity])
@pytest.mark.parametrize("other", [nn.DataParallel, slow(torch.compile), nn.Identity])
def test_load_finds_the_network_inside_a_wrapper(tmp_path, wrap, other):
    plain = {nn.Identity: lambda module: module}
    source = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)).eval()
    moeash.compress(plain.get(wrap, wrap)(source), tmp_path / "x.moeash", candidate={"k": 4})
    target = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    moeash.load(tmp_path / "x.moeash", into=plain.get(other, other)(target))
    arrays = list(moeash.read(tmp_path / "x.moeash").values())
    for tensor, array in zip(target.state_dict().values(), arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_load_another_architecture_changes_nothing(tiny):
    module = nn.Linear(3, 4)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError):
        moeash.load(tiny.file, into=module)
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


def written(path, **arrays):
    """Write a file of kept tensors."""
    tensors = [
        KeptTensor(name, array.shape, array.dtype.name, array) for name, array in arrays.items()
    ]
    container.write(path, SharedWeights((), tuple(tensors)))


def test_every_dtype_that_safetensors_knows_is_decompressed_bit_for_bit(tmp_path):
    from safetensors.numpy import load_file

    arrays = {
        "nan": np.array([np.nan, -0.0, np.inf], np.float32),
        "scalar": np.array(3, np.int64),
        "nothing": np.empty((0, 2), np.float64),
        "mask": np.array([[True], [False]]),
        "half": np.arange(4, dtype=np.float16),
        "wave": np.array([1j, 2], np.complex64),
    }
    written(tmp_path / "x.moeash", **arrays)
    moeash.decompress(tmp_path / "x.moeash", tmp_path / "x.safetensors")
    again = load_file(tmp_path / "x.safetensors")
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (again[name].dtype, again[name].shape) == (array.dtype, array.shape)
        assert again[name].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"__metadata__": np.zeros(2, np.float32)}, "'__metadata__' for itself"),
        ({"wave": np.zeros(2, np.complex128)}, "cannot hold these tensors.*complex128"),
    ],
)
def test_what_safetensors_cannot_hold_is_refused_and_the_old_file_kept(tmp_path, arrays, message):
    written(tmp_path / "x.moeash", **arrays)
    target = tmp_path / "x.safetensors"
    target.write_text("old")
    with pytest.raises(ExportError, match=f"{message}.*use moeash.read"):
        moeash.decompress(tmp_path / "x.moeash", target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.moeash", "x.safetensors"]
    assert moeash.read(tmp_path / "x.moeash").keys() == arrays.keys()


def test_tied_names_count_as_often_as_they_are_written(tmp_path):
    zeros = np.zeros((1000, 1000), np.float32)
    tensors = [KeptTensor("w", zeros.shape, "float32", zeros)]
    tensors += [TiedTensor(f"t{i}", "w") for i in range(100)]
    container.write(tmp_path / "x.moeash", SharedWeights((), tuple(tensors)))
    with pytest.raises(CorruptContainerError, match=r"claims 4[0-9]{8} bytes of memory"):
        moeash.decompress(tmp_path / "x.moeash", tmp_path / "x.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["x.moeash"]
    module = nn.Linear(1000, 1000, bias=False)
    with pytest.raises(CorruptContainerError, match="max_bytes"):
        moeash.load(tmp_path / "x.moeash", into=module)
    with pytest.raises(CheckpointError):  # enough memory, but another architecture
        moeash.load(tmp_path / "x.moeash", into=module, max_bytes=1 << 30)
