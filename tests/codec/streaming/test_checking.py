"""Files are checked and sized part by part as they are at once, in little memory."""

import tracemalloc

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.inspection import inspect, open_and_size, verify
from moeash.codec.size import size
from moeash.codec.static import rates
from moeash.codec.streaming import checking, reading, spool
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights
from moeash.errors import ContainerError, CorruptContainerError
from tests.codec.forging import V1, sealed, sections


@pytest.fixture(params=[False, True], ids=["at once", "in small parts"])
def parts(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(rates, "PART", 50)
        monkeypatch.setattr(checking, "CHUNK", 7)
        monkeypatch.setattr(reading, "CHUNK", 5)
        monkeypatch.setattr(spool, "SPOOLED_BYTES", 10)


@pytest.mark.parametrize("coder", ["ans", "huffman", "adaptive"])
def test_everything_a_file_can_hold_is_verified_and_sized(zoo, tmp_path, parts, coder):
    path = tmp_path / "x.moeash"
    path.write_bytes(container.encode(zoo, coder=coder, notes={"a": "b"}))
    report = verify(path)
    assert report.fingerprint == zoo.fingerprint()
    assert (report.coder, report.size_bytes) == (coder, path.stat().st_size)
    uses, sized = open_and_size(path)
    assert sized == inspect(path) == size(zoo, coder=coder, notes={"a": "b"})
    for use, book, counts in zip(uses, zoo.codebooks, zoo.usage(), strict=True):
        np.testing.assert_array_equal(use.entries, book.entries)
        np.testing.assert_array_equal(use.counts, counts)
    assert [use.tensors for use in uses] == [
        tuple(t.name for t in zoo.shared if t.codebook == i) for i in range(len(zoo.codebooks))
    ]


@pytest.mark.parametrize("path", sorted(V1.glob("*-ans.moeash")), ids=lambda path: path.name)
def test_fingerprints_of_the_assets_are_those_of_their_networks(path):
    shared = container.decode(path.read_bytes()).shared
    assert verify(path).fingerprint == shared.fingerprint()
    assert inspect(path).total == path.stat().st_size


def test_a_file_whose_network_encodes_to_other_bytes_is_refused(layers, tmp_path, parts):
    """The salt of another rotation: it decodes, and no encoder would have chosen it."""
    from tests.codec.test_reference import rotated

    path = tmp_path / "x.moeash"
    if rates.PART < 1000:
        pytest.skip("the other encoder has one state")
    path.write_bytes(rotated(layers([500, 40, 30], 20), 7))
    assert container.decode(path.read_bytes())
    with pytest.raises(CorruptContainerError, match="encodes to other bytes"):
        verify(path)


def test_a_payload_with_zeros_behind_it_is_refused(zoo, tmp_path, parts):
    head, *others, payload = sections(container.encode(zoo))
    path = tmp_path / "x.moeash"
    path.write_bytes(sealed(head, *others, payload + bytes(4)))
    for check in (verify, inspect):
        with pytest.raises(CorruptContainerError):
            check(path)


def large():
    """48 MiB of indices and 16 MiB of kept values, in a file of some hundred kilobytes."""
    rng = np.random.default_rng(0)
    n = 3 << 24
    indices = np.zeros(n, dtype=np.uint8)
    indices[rng.integers(0, n, 9000)] = 1
    shared = SharedTensor("w", (n,), "float32", 0, indices, np.bincount(indices, minlength=2))
    values = np.zeros(1 << 22, dtype=np.float32)
    values[::4096] = rng.normal(size=1 << 10)
    kept = KeptTensor("b", values.shape, "float32", values)
    return SharedWeights((Codebook(np.array([0.0, 1.0])),), (shared, kept))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_network(tmp_path, monkeypatch):
    shared = large()
    path = tmp_path / "x.moeash"
    path.write_bytes(container.encode(shared))
    monkeypatch.setattr(spool, "SPOOLED_BYTES", 1 << 20)
    wanted = shared.fingerprint(), size(shared)
    del shared

    def peak(function):
        tracemalloc.start()
        try:
            found = function()
            return found, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole = peak(
        lambda: container.decode(path.read_bytes(), max_bytes=1 << 30).shared.fingerprint()
    )
    assert whole[0] == wanted[0] and whole[1] > 64 << 20
    verified, most = peak(lambda: verify(path, max_bytes=1 << 30))
    assert verified.fingerprint == wanted[0]
    assert most < 32 << 20
    inspected, most = peak(lambda: inspect(path, max_bytes=1 << 30))
    assert inspected == wanted[1]
    assert most < 16 << 20


def test_a_temporary_folder_without_room_is_told(zoo, tmp_path):
    path = tmp_path / "x.moeash"
    path.write_bytes(container.encode(zoo))

    def full(self, part):
        raise OSError(28, "No space left on device")

    file = type("Full", (), {"seek": lambda self, at: None, "write": full})()
    full_disk = pytest.raises(ContainerError, match="No space left on device; let TMPDIR")
    with reading.FileReader(path, max_bytes=None) as reader, full_disk:
        checking.count(reader, spool.Spool(reader, file))
