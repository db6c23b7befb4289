import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, TiedTensor
from moeash.errors import CorruptContainerError, ExportError
from moeash.exports import streaming


def test_tied_tensors_are_decompressed_under_both_names(tmp_path):

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
        moeash.decompress(tmp_path / "x.moeash", target, force=True)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.moeash", "x.safetensors"]
    assert moeash.read(tmp_path / "x.moeash").keys() == arrays.keys()


def test_tied_names_count_as_often_as_they_are_written(tmp_path):
    zeros = np.zeros((1000, 1000), np.float32)
    tensors = [KeptTensor("w", zeros.shape, "float32", zeros)]
    tensors += [TiedTensor(f"t{i}", "w") for i in range(100)]
    container.write(tmp_path / "x.moeash", SharedWeights((), tuple(tensors)))
    with pytest.raises(CorruptContainerError, match=r"claims a network of 4[0-9]{8} bytes.*max_b"):
        moeash.decompress(tmp_path / "x.moeash", tmp_path / "x.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["x.moeash"]


def test_bfloat16_counts_what_it_takes_on_the_disk(tmp_path):
    zeros = np.zeros((3000, 1000), np.float16)
    tensors = (KeptTensor("w", zeros.shape, "bfloat16", zeros), TiedTensor("t", "w"))
    container.write(tmp_path / "x.moeash", SharedWeights((), tensors))
    target = tmp_path / "x.safetensors"
    with pytest.raises(CorruptContainerError, match="claims a network of 120"):
        moeash.decompress(tmp_path / "x.moeash", target, max_bytes=11_999_999)
    moeash.decompress(tmp_path / "x.moeash", target, max_bytes=12_010_000)
    assert 12_000_000 < target.stat().st_size < 12_010_000


def everything():
    """A network with shared, kept, tied and empty tensors of several dtypes."""
    rng = np.random.default_rng(0)
    book = Codebook(np.array([-1.00390625, -0.1, 0.0, 0.30000001, 2.7]))

    def shared(name, shape, dtype):
        indices = rng.integers(0, 5, int(np.prod(shape))).astype(np.uint8)
        return SharedTensor(name, shape, dtype, 0, indices, np.bincount(indices, minlength=5))

    def kept(name, dtype, values, exponent=0):
        return KeptTensor(name, values.shape, dtype, values, exponent)

    return SharedWeights(
        (book,),
        (
            shared("a.weight", (40, 30), "float32"),
            kept("a.bias", "bfloat16", rng.normal(size=40).astype(np.float16).astype(np.float32)),
            shared("b.weight", (7, 3), "bfloat16"),
            TiedTensor("b.again", "b.weight"),
            kept("b.bias", "float32", rng.integers(-9, 9, 11).astype(np.int8), -5),
            kept("c.bias", "float32", rng.normal(size=300).astype(np.float16)),
            shared("c.weight", (5,), "float16"),
            kept("steps", "int64", np.array(77)),
            kept("mask", "bool", np.array([True, False, True])),
            kept("none", "float32", np.empty((0, 4), np.float32)),
            shared("c.none", (0, 2), "float32"),
        ),
    )


@pytest.mark.parametrize("coder", ["ans", "huffman", "adaptive"])
def test_a_checkpoint_is_the_same_however_little_of_it_is_in_memory(tmp_path, coder, monkeypatch):
    shared = everything()
    container.write(tmp_path / "x.moeash", shared, coder=coder, notes={"format": "pt"})
    moeash.decompress(tmp_path / "x.moeash", tmp_path / "whole.safetensors")
    for module, name, value in (
        (streaming, "CHUNK", 7),
        (moeash.codec.streaming.spool, "SPOOLED_BYTES", 10),
        (streaming, "BLOCK", 16),
        (moeash.codec.streaming.reading, "CHUNK", 11),
    ):
        monkeypatch.setattr(module, name, value)
    written = moeash.decompress(tmp_path / "x.moeash", tmp_path / "parts.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    assert (tmp_path / "parts.safetensors").read_bytes() == whole
    assert written.size_bytes == len(whole)
    assert written.names == tuple(tensor.name for tensor in shared.tensors)
    with safe_open(tmp_path / "whole.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    tensors = load_torch(tmp_path / "whole.safetensors")
    dtypes = {t.name: t.dtype for t in shared.tensors if not isinstance(t, TiedTensor)}
    for name, array in shared.decoded().items():
        wanted = torch.from_numpy(np.array(array))
        dtype = getattr(torch, dtypes.get(name, "bfloat16"))
        assert tensors[name].dtype == dtype
        assert torch.equal(tensors[name], wanted.to(dtype)), name


def test_a_disk_that_loses_bits_never_gets_its_checkpoint_named(tiny, tmp_path, monkeypatch):
    import os

    target = tmp_path / "x.safetensors"
    target.write_bytes(b"old")
    for at in (20, -1):

        def fsync(handle, at=at):
            size = os.fstat(handle).st_size
            place = at % size
            (byte,) = os.pread(handle, 1, place)
            os.pwrite(handle, bytes([byte ^ 1]), place)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(ExportError, match="safetensors file written h"):
            moeash.decompress(tiny.file, target, force=True)
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]
