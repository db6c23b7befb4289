import os

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.entries import entries_of
from moeash.codec.layout import plan_kept
from moeash.codec.sources import counts_of, group_bytes
from moeash.codec.static import rates
from moeash.codec.streaming import reading, writing
from moeash.core.codebook import Codebook, SharedWeights
from moeash.errors import ExportError
from tests.codec.conftest import find_salted
from tests.codec.forging import sections


class InMemory:
    """A network in memory that is asked for in parts; what the writer sees of one that is not."""

    def __init__(self, shared):
        self.shared = shared
        self.most = 0

    def indices(self, position, begin, end):
        self.most = max(self.most, end - begin)
        return self.shared.tensors[position].indices[begin:end]

    def stored(self, position, begin, end):
        return self.shared.tensors[position].values.reshape(-1)[begin:end]


def counted(shared, notes=None):
    entries = entries_of(shared)

    def planes(group):
        rows = group_bytes(shared, group)
        return [np.bincount(rows[:, plane], minlength=256) for plane in range(group.n_planes)]

    kept = plan_kept("ans", entries, planes)
    return writing.Counted(entries, shared.codebooks, counts_of(shared), kept, notes or {})


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_streamed_file_is_to_the_byte_the_one_encoded_at_once(zoo, tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(writing, "CHUNK", chunk)
    monkeypatch.setattr(reading, "CHUNK", chunk)
    monkeypatch.setattr(rates, "PART", 5 * chunk)
    contents = InMemory(zoo)
    layout = writing.write(tmp_path / "x.moeash", counted(zoo, {"a": "b"}), contents)
    data = (tmp_path / "x.moeash").read_bytes()
    assert data == container.encode(zoo, notes={"a": "b"})
    assert len(data) == layout.total_bytes
    assert contents.most <= 5 * chunk


@pytest.mark.parametrize("sizes", [[], [1], [40_000, 3, 900]])
def test_networks_of_other_shapes_are_the_same_to_the_byte(layers, tmp_path, sizes):
    shared = layers(sizes, 41) if sizes else SharedWeights((), ())
    writing.write(tmp_path / "x.moeash", counted(shared), InMemory(shared))
    assert (tmp_path / "x.moeash").read_bytes() == container.encode(shared)


def test_a_stream_that_does_not_fit_is_begun_again_with_other_slots(
    one_tensor, tmp_path, monkeypatch
):
    shared, data = find_salted(one_tensor, monkeypatch)
    writing.write(tmp_path / "x.moeash", counted(shared), InMemory(shared))
    assert (tmp_path / "x.moeash").read_bytes() == data


def test_contents_that_change_under_the_writers_hands_are_no_file(layers, tmp_path):
    shared = layers([5000], 20)
    target = tmp_path / "x.moeash"
    target.write_bytes(b"old")

    class Changing(InMemory):
        calls = 0

        def indices(self, position, begin, end):
            self.calls += 1
            return (super().indices(position, begin, end) + (self.calls > 1)) % 20

    with pytest.raises(ExportError, match=r"the same network: 'layer0\.weight' differs"):
        writing.write(target, counted(shared), Changing(shared))
    absent = shared.tensors[0].counts.copy()
    absent[10] = 0
    wrong = counted(shared)
    wrong.counts[0][:] = absent
    with pytest.raises(ExportError, match=r"'layer0\.weight' is not what it was"):
        writing.write(target, wrong, InMemory(shared))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("section", range(4))
def test_a_disk_that_loses_bits_never_gets_its_file_named(zoo, tmp_path, monkeypatch, section):
    target = tmp_path / "x.moeash"
    target.write_bytes(b"old")
    spoiled = container.encode(zoo)
    at = sum(map(len, sections(spoiled)[:section]))
    spoiled = spoiled[:at] + bytes([spoiled[at] ^ 1]) + spoiled[at + 1 :]

    def fsync(handle):
        os.pwrite(handle, spoiled, 0)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ExportError, match="the file written does not decode"):
        writing.write(target, counted(zoo), InMemory(zoo))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("alter", ["entry", "note", "book", "index"])
def test_another_networks_file_is_not_taken_for_this_ones(layers, tmp_path, monkeypatch, alter):
    shared, other = layers([400], 20), layers([400], 20, seed=1)
    books = (Codebook(other.codebooks[0].entries[: len(shared.codebooks[0])]),)
    tensor = shared.tensors[0]
    moved = tensor.indices[::-1].copy()
    spoiled = {
        "entry": container.encode(layers([399], 20)),
        "note": container.encode(shared, notes={"a": "b"}),
        "book": container.encode(SharedWeights(books, shared.tensors)),
        "index": container.encode(
            SharedWeights(shared.codebooks, (type(tensor)(**vars(tensor) | {"indices": moved}),))
        ),
    }[alter]

    def fsync(handle):
        os.ftruncate(handle, len(spoiled))
        os.pwrite(handle, spoiled, 0)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ExportError, match="does not decode to the same network"):
        writing.write(tmp_path / "x.moeash", counted(shared), InMemory(shared))
    assert not list(tmp_path.iterdir())
