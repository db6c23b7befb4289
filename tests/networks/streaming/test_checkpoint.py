import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moeash.errors import CheckpointError
from moeash.networks.streaming.checkpoint import Checkpoint

PARTS = {
    "one.safetensors": {"b.weight": torch.randn(4, 3), "b.bias": torch.randn(4).bfloat16()},
    "two.safetensors": {"a.weight": torch.randn(2, 5).half()},
}


@pytest.fixture
def sharded(tmp_path):
    """A folder with two shards and their index."""
    for file, tensors in PARTS.items():
        save_file(tensors, tmp_path / file, metadata={"format": "pt"})
    index(tmp_path, {name: file for file, tensors in PARTS.items() for name in tensors})
    return tmp_path


def index(folder, weight_map):
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


@pytest.mark.parametrize("name", ["", "model.safetensors.index.json"])
def test_shards_are_one_checkpoint(sharded, name):
    with Checkpoint(sharded / name) as checkpoint:
        assert {tensor.name for tensor in checkpoint.tensors} == {
            name for tensors in PARTS.values() for name in tensors
        }
        assert checkpoint.notes == {"format": "pt"}
        assert checkpoint.size_bytes == 48 + 8 + 20
        for tensor in checkpoint.tensors:
            own = PARTS[tensor.path.name][tensor.name]
            got = checkpoint.read(tensor, 1, 4)
            wanted = own.reshape(-1)[1:4]
            assert got.tobytes() == wanted.view(torch.uint8).numpy().tobytes()
            assert got.dtype == (np.uint16 if own.dtype == torch.bfloat16 else tensor.dtype)


def test_a_folder_with_one_file_is_that_file(tmp_path):
    save_file(PARTS["two.safetensors"], tmp_path / "m.safetensors")
    with Checkpoint(tmp_path) as checkpoint:
        assert [tensor.name for tensor in checkpoint.tensors] == ["a.weight"]


def test_a_folder_with_nothing_or_too_much_says_what_is_needed(sharded):
    (sharded / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"2 files \*.safetensors \(one.*name one"):
        Checkpoint(sharded)
    empty = sharded / "empty"
    empty.mkdir()
    with pytest.raises(CheckpointError, match=r"holds no \*.safetensors.index.json"):
        Checkpoint(empty)


@pytest.mark.parametrize(
    "weight_map, message",
    [
        ({"a.weight": "../two.safetensors"}, "shards lie in the folder of their index"),
        ({"a.weight": "/etc/passwd"}, "shards lie in the folder of their index"),
        ({"a.weight": 3}, "shards lie in the folder of their index"),
        ({}, "names no tensors"),
        ([1], "no index of a checkpoint"),
        ({"a.weight": "three.safetensors"}, "cannot read.*three.safetensors.*No such file"),
        ({"a.weights": "two.safetensors"}, "holds 'a.weights', but it does not; nearest: 'a.weig"),
        ({"b.weight": "one.safetensors"}, "does not name 1 tensors .*'b.bias'"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(sharded, weight_map, message):
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(index(sharded, weight_map))


def test_a_name_in_two_shards_is_refused(sharded):
    save_file(PARTS["one.safetensors"] | PARTS["two.safetensors"], sharded / "one.safetensors")
    with pytest.raises(CheckpointError, match=r"'a.weight' in one.safetensors and in two"):
        Checkpoint(sharded)


def test_an_index_that_is_no_json_is_refused(tmp_path):
    path = tmp_path / "x.safetensors.index.json"
    path.write_text("{")
    with pytest.raises(CheckpointError, match="no index of a checkpoint"):
        Checkpoint(path)


def test_an_index_without_an_end_is_refused(tmp_path):
    path = tmp_path / "x.safetensors.index.json"
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no index of a checkpoint: it is too large"):
        Checkpoint(path)


def test_a_file_cut_while_it_is_read_is_told(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.zeros(1000)}, path)
    with Checkpoint(path) as checkpoint:
        with path.open("rb+") as file:
            file.truncate(path.stat().st_size - 100)
        with pytest.raises(CheckpointError, match="became shorter"):
            checkpoint.read(checkpoint.tensors[0], 0, 1000)
