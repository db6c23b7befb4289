import dataclasses
import hashlib
import os

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.container import read, read_arrays
from moeash.codec.inspection import inspect, verify
from moeash.codec.size import size
from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.errors import ContainerError, CorruptContainerError
from moeash.exports.files import load
from tests.memory import refusal


@pytest.fixture
def file(zoo, tmp_path):
    path = tmp_path / "zoo.moeash"
    container.write(path, zoo, coder="adaptive", notes={"net": "zoo"})
    return path


def test_a_whole_file_is_described(zoo, file):
    report = verify(file)
    assert report.path == str(file)
    assert report.size_bytes == file.stat().st_size
    assert report.fingerprint == zoo.fingerprint()
    assert (report.coder, report.version) == ("adaptive", 1)


def test_inspecting_gives_the_size_report_of_the_network(zoo, file):
    report = inspect(file)
    assert report == size(zoo, coder="adaptive", notes={"net": "zoo"})
    assert report.total == file.stat().st_size
    assert (report.coder, report.notes) == ("adaptive", {"net": "zoo"})
    assert (report.n_shared, report.n_kept) == (zoo.n_shared, zoo.n_kept)
    assert report.ratio == zoo.original_bytes / report.total
    listed = {name for row in report.tensors for name in row.names}
    assert listed == {t.name for t in (*zoo.shared, *zoo.kept) if t.size}


@pytest.mark.parametrize("question", [verify, inspect])
def test_a_damaged_or_missing_file_is_refused(file, tmp_path, question):
    data = bytearray(file.read_bytes())
    data[30] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptContainerError, match="checksum"):
        question(file)
    with pytest.raises(ContainerError, match=r"cannot read .*gone.*; give the path of a \.moeash"):
        question(tmp_path / "gone")


@pytest.mark.parametrize("ask", [read, load, read_arrays])
def test_a_device_without_an_end_is_refused_by_its_first_bytes(ask):
    with pytest.raises(ContainerError, match="does not begin with its mark"):
        ask("/dev/zero")


def test_a_file_larger_than_memory_is_refused_in_words(tmp_path):
    vast = tmp_path / "vast.moeash"
    vast.write_bytes(container.MAGIC)
    os.truncate(vast, 1 << 40)
    imports = "from moeash.codec.container import read"
    said = refusal(vast, imports, "read(sys.argv[1])", "ContainerError", gib=4)
    assert "Cannot allocate memory; give the path of a .moeash file" in said


def padded(data):
    """Return the same file with three zero bytes more at the end of its payload."""
    assert data[6] == 0 and data[10] < 0x7D  # ANS; the payload's length stays one byte
    body = bytearray(data[:-8]) + bytes(3)
    body[10] += 3
    return bytes(body) + hashlib.blake2b(body, digest_size=8).digest()


@pytest.mark.parametrize("question", [verify, inspect])
def test_a_file_with_room_to_hide_in_is_refused(tmp_path, question):
    kept = KeptTensor("b", (3,), "float32", np.array([1.5, 2.25, -8.0], dtype=np.float32))
    data = padded(container.encode(SharedWeights((), (kept,))))
    (tmp_path / "x.moeash").write_bytes(data)
    with pytest.raises(CorruptContainerError, match=r"take \d+ bytes, but the file has"):
        question(tmp_path / "x.moeash")


@pytest.mark.parametrize("question", [verify, inspect])
def test_the_limit_on_memory_is_passed_on(tmp_path, question):
    kept = KeptTensor("b", (5000,), "float32", np.zeros(5000, dtype=np.float32))
    container.write(tmp_path / "x.moeash", SharedWeights((), (kept,)))
    question(tmp_path / "x.moeash", max_bytes=1 << 20)
    with pytest.raises(CorruptContainerError, match="max_bytes"):
        question(tmp_path / "x.moeash", max_bytes=100)


def test_reports_are_frozen(file):
    with pytest.raises(dataclasses.FrozenInstanceError):
        verify(file).version = 2
