import argparse
import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from moeash.codec.container import encode
from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.errors import InputError
from moeash.networks.loading.checkpoints import load_checkpoint
from moeash.service.access.contents import check_content
from moeash.service.access.uploads import Uploads


def check(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    check_content(path, path.suffix)


def torch_file(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


TENSORS = {"a": np.zeros((2, 3), np.float32), "b": np.ones(5, np.int64), "e": np.zeros((0, 4))}
SAFE = save(TENSORS, metadata={"format": "np"})
STATE = {name: torch.from_numpy(value) for name, value in TENSORS.items()}


def header(value, data=b"", length=None):
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def test_what_safetensors_and_torch_write_is_taken(tmp_path):
    check(tmp_path, "w.safetensors", SAFE)
    check(tmp_path, "m.safetensors", save({"h": np.zeros((3, 5), np.float16)}))
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimiser = torch.optim.AdamW(module.parameters())
    module(torch.randn(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    for value in (
        STATE,
        module.state_dict(),
        {"model": module.state_dict(), "optimizer": optimiser.state_dict(), "epoch": 3, "lr": 0.1},
        {"p": torch.nn.Parameter(torch.zeros(2)), "bf": torch.zeros(2, dtype=torch.bfloat16)},
    ):
        check(tmp_path, "w.pt", torch_file(value))
        assert load_checkpoint(tmp_path / "w.pt")
    check(tmp_path, "w.pth", torch_file(STATE))
    check(tmp_path, "s.toml", b'name = "a"\n')


SOLUTION = encode(
    SharedWeights((), (KeptTensor("a", (2, 3), "float32", np.zeros((2, 3), np.float32)),)),
    coder="ans",
)


def test_a_solution_is_taken_as_it_was_exported_and_not_otherwise(tmp_path):
    check(tmp_path, "s.moeash", SOLUTION)
    changed = bytearray(SOLUTION)
    changed[len(SOLUTION) // 2] ^= 1
    for content in (b"", SOLUTION[:-1], SOLUTION + b"x", bytes(changed), SAFE):
        with pytest.raises(InputError, match="the file is not what moeash exports: "):
            check(tmp_path, "s.moeash", content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        SAFE[:-1],
        SAFE + b"x",
        SAFE[:20],
        header(b"[]"),
        header({}),
        header({"__metadata__": {}}),
        header({"a": 3}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, b"x" * 8),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, b"x" * 12),
        header({"a": {"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}}, b"x" * 8),
        header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}}),
        header({"a": {"dtype": "F32", "shape": [2**60, 2**60], "data_offsets": [0, 8]}}, b"x" * 8),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 9]}}, b"x" * 8),
        header({"a": {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]}}, b"x" * 8),
        header({"a": {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}}, b"x" * 8),
        header(b"[" * 100_000),
        header(b"{}", length=2**63),
        header(b'{"a":' + b"9" * 10_000 + b"}"),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    ],
)
def test_what_is_no_safetensors_is_refused(tmp_path, content):
    with pytest.raises(InputError):
        check(tmp_path, "w.safetensors", content)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch /tmp/never",)


def archive(data, **others):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", data)
        for name, content in others.items():
            file.writestr(name, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def test_what_training_scripts_store_beside_tensors_is_taken(tmp_path):
    beside = {"best": np.float64(1), "seen": np.arange(3), "args": argparse.Namespace(lr=1)}
    check(tmp_path, "w.pt", torch_file({"state_dict": STATE, **beside}))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_would_run_code_is_refused(tmp_path, protocol):
    for content in (
        archive(pickle.dumps(Evil(), protocol)),
        archive(pickle.dumps({"a": [Evil()]}, protocol)),
        torch_file({"a": Evil()}, pickle_protocol=max(protocol, 2)),
    ):
        with pytest.raises(InputError, match="could run code"):
            check(tmp_path, "w.pt", content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04",
        torch_file(STATE)[:-30],
        torch_file(STATE, _use_new_zipfile_serialization=False),
        pickle.dumps(STATE),
        archive(b""),
        archive(b"\x80\x02c"),
        archive(b"\x80\x02cos\nsystem\n."),
        archive(b"\x80\x02.", bomb=b"\0" * 10_000_000),
        archive(b"\x80\x02.", **{"x/data.pkl": b""}),
        b"PK\x05\x06" + b"\0" * 8 + b"\xff" * 8 + b"\0\0",
        SAFE,
    ],
)
def test_what_torch_does_not_write_is_refused(tmp_path, content):
    with pytest.raises(InputError):
        check(tmp_path, "w.pt", content)


def test_a_zip_of_very_many_files_is_refused_before_they_are_listed(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for n in range(3000):
            info = zipfile.ZipInfo(f"{n}")
            info.comment = b"x" * 3000
            file.writestr(info, b"")
    with pytest.raises(InputError, match="more files than a checkpoint has"):
        check(tmp_path, "w.pt", buffer.getvalue())


@pytest.mark.parametrize(
    "content", [b"name = ", b"\xff\xfe", b"a=1\n" * 100_000, b"x." * 40 + b"y=1"]
)
def test_what_is_no_toml_is_refused(tmp_path, content):
    with pytest.raises(InputError):
        check(tmp_path, "s.toml", content)


def test_many_uploads_at_once_are_told_to_wait(tmp_path):
    from moeash.service.access.uploads import MOST_AT_ONCE
    from moeash.service.problems import Problem

    uploads = Uploads(tmp_path)

    def nested(depth):
        def pull():
            if depth:
                uploads.store(f"w{depth}.toml", nested(depth - 1), "ada")
            return b""

        return pull

    with pytest.raises(Problem) as caught:
        uploads.store("w.toml", nested(MOST_AT_ONCE), "ada")
    assert caught.value.status_code == 503
    assert uploads.store("w.toml", lambda: b"", "ada")[1], "the slots are free again"
