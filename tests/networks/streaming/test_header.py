import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moeash.errors import CheckpointError, ExportError
from moeash.networks.streaming.header import plan_file, read_header

TENSORS = {
    "b": torch.zeros(3, 2, dtype=torch.bfloat16),
    "a": torch.arange(5),
    "none": torch.zeros(0, 4),
    "scalar": torch.tensor(True),
}


def test_tensors_lie_where_the_library_put_them(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    tensors, notes = read_header(tmp_path / "x.safetensors")
    assert notes == {"format": "pt"}
    data = (tmp_path / "x.safetensors").read_bytes()
    assert {tensor.name for tensor in tensors} == set(TENSORS)
    for tensor in tensors:
        own = TENSORS[tensor.name]
        assert tensor.dtype == str(own.dtype).removeprefix("torch.")
        assert tensor.shape == tuple(own.shape)
        content = data[tensor.offset : tensor.offset + tensor.size_bytes]
        assert content == own.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_a_planned_file_is_one_the_library_reads(tmp_path):
    path = tmp_path / "x.safetensors"
    listed = [("b", "bool", (3,)), ("ü", "bfloat16", (2, 2)), ("d", "float64", ())]
    head, placed = plan_file(path, listed, {"format": "pt"})
    assert [tensor.name for tensor in placed] == ["d", "ü", "b"]
    assert all(tensor.offset % tensor.width == 0 for tensor in placed)
    path.write_bytes(head + bytes(range(8 + 8)) + b"\1\0\1")
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
        assert opened.get_tensor("b").tolist() == [True, False, True]
        assert opened.get_tensor("ü").shape == (2, 2)
    again, _ = read_header(path)
    assert again == placed


@pytest.mark.parametrize(
    "name, dtype, message",
    [("__metadata__", "float32", "for itself"), ("w", "complex128", "dtype complex128")],
)
def test_what_the_format_has_no_place_for_is_refused(tmp_path, name, dtype, message):
    with pytest.raises(ExportError, match=f"{message}.*use moeash.read"):
        plan_file(tmp_path / "x", [(name, dtype, (1,))], {})


def told(**changes):
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def file_of(header, size=8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(size)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "header claims 0 bytes"),
        (b"\xff" * 8 + b"{}", "header claims"),
        (file_of(b"{no}"), "no JSON"),
        (file_of(b'{"a": 1, "a": 2}'), "occurs twice"),
        (file_of(b"[" * 100_000), "no JSON"),
        (file_of([1]), "no JSON object"),
        (file_of({"__metadata__": {"a": 1}}), "no texts"),
        (file_of({"w": told(data_offsets=[0])}), "incomplete"),
        (file_of({"w": 7}), "incomplete"),
        (file_of({"w": told(shape=[-2])}), "no numbers"),
        (file_of({"w": told(shape="2")}), "no numbers"),
        (file_of({"w": told(shape=[True, 2])}), "no numbers"),
        (file_of({"w": told(data_offsets=[0, 4])}), "has 4 bytes, but its shape takes 8"),
        (file_of({"w": told(data_offsets=[4, 12])}, 12), "begins at byte"),
        (file_of({"w": told(), "v": told()}), "begins at byte"),
        (file_of({"w": told()}, 9), "tensors end at"),
        (file_of({"w": told()}, 7), "tensors end at"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_with_the_reason(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not a readable safetensors file.*{message}"):
        read_header(path)


def test_a_dtype_without_a_place_is_named_with_what_to_do(tmp_path):
    save_file({"w": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"'w' .*F8_E4M3.*convert it to one of F64, F32"):
        read_header(tmp_path / "x.safetensors")


def test_a_pointer_of_git_lfs_is_told_as_one(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        read_header(path)


def test_offsets_that_wrap_are_no_way_out_of_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(file_of({"w": told(shape=[1 << 62], data_offsets=[0, 1 << 64])}))
    with pytest.raises(CheckpointError, match="tensors end at"):
        read_header(path)
