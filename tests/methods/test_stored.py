"""Prepared values in a file: bit for bit, small, and refused when something is wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from moeash.errors import PreparedFileError
from moeash.methods import stored
from moeash.methods.feedback.assignment.columns import RowFactor
from moeash.methods.gpfq.method import GpfqPrepared
from moeash.methods.stored import load, save


@pytest.fixture
def path(tmp_path):
    return tmp_path / "prepared.safetensors"


def there_and_back(value, path):
    save(value, path)
    return load(path)


def test_plain_values_come_back_as_they_are(path):
    value = {
        "none": None,
        3: [True, -7, 2**40, 0.1, float("inf"), "\u00e4"],
        (1, "a"): ((), {}, [()]),
    }
    assert there_and_back(value, path) == value
    nan = there_and_back(float("nan"), path)
    assert nan != nan


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8", "int32", "bool"]
)
def test_tensors_come_back_bit_for_bit(dtype, path):
    bits = torch.randint(0, 2, (3, 64), generator=torch.Generator().manual_seed(0))
    tensor = bits.to(getattr(torch, dtype)) * (1 if dtype == "bool" else 3)
    back = there_and_back(tensor.to(getattr(torch, dtype)), path)
    assert back.dtype == getattr(torch, dtype) and torch.equal(back, tensor)


def test_tensors_begin_where_torch_begins_them(path):
    tensors = [torch.randn(n, 5)[:, :4] for n in (1, 3, 7, 2)] + [torch.randn(3, 5).T]
    back = there_and_back([*tensors, *(t.numpy() for t in tensors)], path)
    for got, want in zip(back, [*tensors, *tensors], strict=True):
        assert torch.equal(torch.as_tensor(got), want)
        assert torch.as_tensor(got).data_ptr() % 64 == 0
    assert back[4].stride() == tensors[4].stride()


def test_a_nan_keeps_its_bits(path):
    odd = np.array([0x7FC00001, 0xFFC12345], dtype=np.uint32).view(np.float32)
    assert there_and_back(odd, path).tobytes() == odd.tobytes()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64, np.float64, np.int8])
def test_arrays_come_back_as_arrays(dtype, path):
    array = np.arange(12, dtype=dtype).reshape(3, 4)
    array.flags.writeable = False
    back = there_and_back([array, array.T, array[:0], np.array(dtype(5))], path)
    for got, want in zip(back, [array, array.T, array[:0], np.array(dtype(5))], strict=True):
        assert isinstance(got, np.ndarray) and got.dtype == dtype
        assert got.shape == want.shape and np.array_equal(got, want)


def test_axes_keep_their_order_in_memory(path):
    x = torch.randn(2, 3, 4, 5)
    for tensor in (x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2)):
        assert there_and_back(tensor, path).stride() == tensor.stride()


def test_memory_that_two_names_share_is_stored_once_and_shared_again(path):
    big = torch.randn(1000, 100)
    rows = RowFactor(big, big, big[0])
    back = there_and_back({"a": rows, "b": (big, big.T)}, path)
    assert path.stat().st_size < 1.6 * big.nbytes * 2
    assert back["a"].order is back["a"].coupling is back["b"][0]
    assert torch.equal(back["b"][1], big.T)
    one = {"a": rows, "b": (big,)}
    save(one, path)
    assert path.stat().st_size < 1.05 * big.nbytes


def test_nothing_but_moeashs_own_classes_is_written(path):
    for value in (torch.nn.Linear(2, 2), Path(), np.float64(1) + 0j, {1, 2}, [object()]):
        with pytest.raises(TypeError, match="cannot hold a"):
            save(value, path)
    assert not path.exists()

    class RowFactor:  # of the same name
        pass

    with pytest.raises(TypeError, match="cannot hold a RowFactor"):
        save(RowFactor(), path)


def prepared():
    return GpfqPrepared(torch.randn(4, 3), 2, 7, ("a note",))


def test_a_failed_write_leaves_the_file_that_was_there(path):
    save(prepared(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save([prepared(), object()], path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def rewritten(path, change):
    """Write a file again with other tensors or metadata."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def test_a_file_of_another_version_is_refused(path, monkeypatch):
    save(prepared(), path)
    monkeypatch.setattr(stored, "__version__", "9.9")
    with pytest.raises(PreparedFileError, match=r"written by moeash .*, this is moeash 9\.9"):
        load(path)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.9, 0.999])
def test_no_changed_byte_goes_unnoticed(path, position):
    save(prepared(), path)
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(PreparedFileError):
        load(path)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_file_cut_short_is_refused(path, length):
    save(prepared(), path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(PreparedFileError):
        load(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(PreparedFileError, match="cannot read"):
        load(path)


@pytest.mark.parametrize(
    "tree",
    [
        {"class": "Popen", "fields": {}},
        {"class": "GpfqPrepared", "fields": {"images": None}},
        {"class": "GpfqPrepared", "fields": {"images": 1, "n_layers": 2, "seed": 3, "rest": 4}},
        {"tensor": ["99", []], "host": True},
        {"array": ["0", [0]]},
        {"eval": "1"},
        {},
        [1],
    ],
    ids=str,
)
def test_a_tree_that_makes_no_sense_is_refused_even_with_a_right_digest(path, tree):
    save(prepared(), path)

    def change(tensors, metadata):
        metadata["tree"] = json.dumps(tree)
        metadata["digest"] = stored.digest_of(metadata["tree"], tensors)

    rewritten(path, change)
    with pytest.raises(PreparedFileError, match="damaged"):
        load(path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_tensors_of_a_device_go_to_the_device_asked_for(path):
    save([torch.ones(2).cuda(), torch.ones(2)], path)
    there, here = load(path, device="cuda")
    assert there.is_cuda and not here.is_cuda
    assert not load(path)[0].is_cuda
