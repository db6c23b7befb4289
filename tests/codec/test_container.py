import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.codec import container
from moeash.codec.adaptive import coder as adaptive
from moeash.codec.layout import lay_out
from moeash.codec.size import size
from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    SharedTensor,
    SharedWeights,
    TiedTensor,
    index_dtype,
)
from moeash.errors import (
    ContainerError,
    ContainerVersionError,
    CorruptContainerError,
    ExportError,
    InputError,
)
from tests.codec.paths import draw_path, network_of_wide_alphabets, network_on_trellises
from tests.marks import slow

ASSETS = Path(__file__).parent / "assets"
V1 = ASSETS / "v1"
FINGERPRINTS = json.loads((V1 / "fingerprints.json").read_text())
CODERS = ["ans", "huffman", "adaptive"]


def same(a, b):
    """Compare what the fingerprint covers, and what it does not: counts and dtypes."""
    assert a.fingerprint() == b.fingerprint()
    for one, other in zip(a.tensors, b.tensors, strict=True):
        assert type(one) is type(other)
        if isinstance(one, SharedTensor):
            assert one.indices.dtype == other.indices.dtype
            assert np.array_equal(one.counts, other.counts)
        elif isinstance(one, KeptTensor):
            assert one.values.dtype == other.values.dtype
            assert one.values.shape == other.values.shape


@pytest.mark.parametrize("coder", CODERS)
def test_a_network_with_everything_comes_back(zoo, coder):
    data = container.encode(zoo, coder=coder, notes={"network": "zoo", "a": "ü"})
    decoded = container.decode(data)
    same(decoded.shared, zoo)
    assert decoded.notes == {"a": "ü", "network": "zoo"}
    assert (decoded.coder, decoded.version) == (coder, 1)
    assert sum(decoded.sizes.values()) == len(data)
    again = container.encode(decoded.shared, coder=decoded.coder, notes=decoded.notes)
    assert again == data


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("n", [0, 1, 2, 100_000])
@pytest.mark.parametrize("n_entries", [1, 2, 3, 41, 300, 5000, slow(70_000)])
def test_one_tensor_comes_back_at_its_size(one_tensor, coder, n, n_entries):
    indices = np.random.default_rng(n).integers(0, n_entries, n)
    shared = one_tensor(indices, n_entries)
    data = container.encode(shared, coder=coder)
    same(container.decode(data).shared, shared)
    assert len(data) == size(shared, coder=coder).total


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
dtypes = st.sampled_from(["float32", "float16", "bfloat16", "float64"])
stored = st.sampled_from(
    ["float16", "float32", "float64", "int8", "int64", "uint16", "bool", "complex64"]
)


@st.composite
def networks(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    books = []
    for n_entries in draw(st.lists(st.sampled_from([1, 2, 3, 41, 300]), max_size=3)):
        values = rng.normal(size=n_entries).astype(np.float32) * draw(st.sampled_from([1, 3e37]))
        books.append(Codebook(np.unique(np.clip(values, -3e38, 3e38))))
    tensors = []
    for name in draw(st.lists(names, max_size=8, unique=True)):
        kind = draw(st.sampled_from(["shared", "kept", "tied"]))
        shape = tuple(draw(st.lists(st.integers(0, 6), max_size=4)))
        n = int(np.prod(shape))
        if kind == "shared" and books:
            book = draw(st.integers(0, len(books) - 1))
            n_entries = len(books[book])
            indices = rng.integers(0, draw(st.integers(1, n_entries)), n)
            indices = indices.astype(index_dtype(n_entries))
            counts = np.bincount(indices, minlength=n_entries)
            tensors.append(SharedTensor(name, shape, draw(dtypes), book, indices, counts))
        elif kind == "tied" and tensors:
            tensors.append(TiedTensor(name, draw(st.sampled_from(tensors)).name))
        else:
            dtype = draw(stored)
            values = np.asarray(rng.normal(size=shape) * 99).astype(dtype)
            tensors.append(KeptTensor(name, shape, dtype, values))
    return SharedWeights(tuple(books), tuple(tensors))


@given(networks(), st.sampled_from(CODERS), st.dictionaries(names, names, max_size=3))
@settings(deadline=None, max_examples=150)
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_any_network_comes_back_at_its_size(shared, coder, notes):
    data = container.encode(shared, coder=coder, notes=notes)
    assert len(data) == size(shared, coder=coder, notes=notes).total
    decoded = container.decode(data)
    same(decoded.shared, shared)
    assert decoded.notes == notes
    assert container.encode(decoded.shared, coder=coder, notes=decoded.notes) == data


def test_notes_are_counted_and_their_order_does_not_matter(zoo):
    one = container.encode(zoo, notes={"b": "2", "a": "1"})
    assert one == container.encode(zoo, notes={"a": "1", "b": "2"})
    assert len(one) > len(container.encode(zoo))
    assert len(one) == size(zoo, notes={"a": "1", "b": "2"}).total


def test_tied_names_share_one_array_again(zoo):
    arrays = container.decode(container.encode(zoo)).shared.decoded()
    assert arrays["b.tied.weight"] is arrays["b.conv.weight"]


def test_not_a_number_in_a_kept_tensor_keeps_its_bits():
    bits = np.array([0x7FC00001, 0xFF800000, 0x80000000, 0x00000001], dtype=np.uint32)
    kept = KeptTensor("w", (4,), "float32", bits.view(np.float32))
    shared = SharedWeights((), (kept,))
    decoded = container.decode(container.encode(shared)).shared
    assert decoded.kept[0].values.view(np.uint32).tolist() == bits.tolist()


def test_every_file_of_version_1_has_a_fingerprint_and_every_coder_a_file():
    assert {path.name for path in V1.glob("*.moeash")} == FINGERPRINTS.keys()
    assert {container.read(V1 / name).coder for name in FINGERPRINTS} == set(CODERS)


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_files_of_version_1_are_read_and_written_for_ever(name):
    data = (V1 / name).read_bytes()
    decoded = container.decode(data)
    assert decoded.version == 1
    assert decoded.notes == {"made_by": "tests/codec/assets/make.py"}
    assert decoded.shared.fingerprint() == FINGERPRINTS[name]
    assert container.encode(decoded.shared, coder=decoded.coder, notes=decoded.notes) == data


def test_the_adaptive_coder_takes_fewer_bytes_where_weights_have_structure():
    data = (V1 / "structured-adaptive.moeash").read_bytes()
    decoded = container.decode(data)
    assert len(data) < 0.97 * len(container.encode(decoded.shared, notes=decoded.notes))


def with_steps(shared):
    """Return a network with kept floats in steps besides its own tensors."""
    steps = container.read(V1 / "steps-ans.moeash").shared
    kept = tuple(replace(tensor, name=f"kept.{tensor.name}") for tensor in steps.kept)
    return SharedWeights(shared.codebooks, (*shared.tensors, *kept))


@pytest.mark.parametrize("n_states", [0, 8])
def test_wide_alphabets_are_counted_in_units_codebook_by_codebook(n_states):
    shared = with_steps(network_of_wide_alphabets(n_states=n_states))
    layout = lay_out(shared, coder="adaptive")
    assert [part.shift for part in layout.adaptive] == [4, 0]
    data = container.encode(shared, coder="adaptive")
    assert len(data) == size(shared, coder="adaptive").total
    decoded = container.decode(data)
    assert decoded.shared.fingerprint() == shared.fingerprint()


def test_steps_and_trellises_may_meet_in_a_file():
    both = with_steps(network_on_trellises([8, 4]))
    data = container.encode(both, coder="adaptive")
    assert len(data) == size(both, coder="adaptive").total
    assert container.decode(data).shared.fingerprint() == both.fingerprint()


def tiny():
    book = Codebook(np.array([-1.0, 0.5, 2.0]))
    indices = np.array([0, 1, 1, 2, 1, 1], dtype=np.uint8)
    return SharedWeights(
        (book,),
        (
            SharedTensor("fc.weight", (2, 3), "float32", 0, indices, np.bincount(indices)),
            KeptTensor("fc.bias", (2,), "float32", np.array([0.5, -2.0], dtype=np.float32)),
            TiedTensor("tied", "fc.weight"),
        ),
    )


def bytes_of(name):
    """Return the bytes of a commented hex dump."""
    dump = (ASSETS / name).read_text()
    return bytes.fromhex("".join(line.split("#")[0] for line in dump.splitlines()))


@pytest.mark.parametrize("coder", CODERS)
def test_a_tiny_file_byte_for_byte(coder):
    data = container.encode(tiny(), coder=coder, notes={"net": "t"})
    assert data == bytes_of(f"tiny-{coder}.hex")


def test_a_tiny_file_with_a_trellis_and_steps_byte_for_byte():
    indices, shape = draw_path(np.random.default_rng(0), (24, 2), 9, 4, 4, 0.4)
    counts = np.bincount(indices, minlength=9)
    shared = SharedWeights(
        (Codebook(np.arange(-4, 5)),),
        (
            SharedTensor("w", shape, "float32", 0, indices, counts),
            KeptTensor("b", (2,), "float32", np.array([3, -4], np.int8), -2),
        ),
    )
    data = container.encode(shared, coder="adaptive")
    assert data == bytes_of("tiny-taken.hex")


def test_wrong_counts_are_refused():
    indices = np.array([0, 1, 1], dtype=np.uint8)
    book = Codebook(np.array([0.0, 1.0]))
    tensor = SharedTensor("w", (3,), "float32", 0, indices, np.array([2, 1]))
    with pytest.raises(InputError, match="counts that are not those of its indices"):
        container.encode(SharedWeights((book,), (tensor,)))
    negative = SharedTensor("w", (3,), "float32", 0, indices, np.array([4, -1]))
    with pytest.raises(InputError, match="negative"):
        container.encode(SharedWeights((book,), (negative,)))
    shape = SharedTensor("w", (4,), "float32", 0, indices, np.array([1, 2]))
    with pytest.raises(InputError, match="3 values, but its shape"):
        container.encode(SharedWeights((book,), (shape,)))


def test_an_unknown_coder_is_refused(zoo):
    with pytest.raises(InputError, match="no coder 'zip'"):
        container.encode(zoo, coder="zip")


def test_a_newer_version_is_refused_by_name(zoo):
    data = bytearray(container.encode(zoo))
    data[4] = container.VERSION + 1
    with pytest.raises(ContainerVersionError, match=f"version {container.VERSION + 1}"):
        container.decode(bytes(data))


def test_tensors_that_follow_a_trellis_are_found_and_take_less():
    shared = network_on_trellises([0, 4, 8, 16])
    layout = lay_out(shared, coder="adaptive")
    (part,) = layout.adaptive
    assert part.trellises == (0, 4, 8, 16)
    data = container.encode(shared, coder="adaptive")
    decoded = container.decode(data)
    assert decoded.coder == "adaptive"
    assert decoded.shared.fingerprint() == shared.fingerprint()
    assert len(data) == size(shared, coder="adaptive").total
    tensors = [(tensor.indices, tensor.shape) for tensor in shared.shared]
    assert len(part.stream.data) < 0.9 * len(adaptive.encode(tensors, 41, 20))


def test_one_weight_off_its_trellis_and_the_tensor_is_coded_without():
    shared = network_on_trellises([8, 8], spoiled=[1])
    layout = lay_out(shared, coder="adaptive")
    (part,) = layout.adaptive
    followed = dict(zip(part.positions, part.trellises, strict=True))
    assert followed[1] == 8
    assert not followed.get(2)
    decoded = container.decode(container.encode(shared, coder="adaptive"))
    assert decoded.shared.fingerprint() == shared.fingerprint()


def test_version_0_is_no_version(zoo):
    data = bytearray(container.encode(zoo))
    data[4] = 0
    data[-8:] = hashlib.blake2b(data[:-8], digest_size=8).digest()
    with pytest.raises(CorruptContainerError, match="version 0, which there never was"):
        container.decode(bytes(data))


# Files.


def test_a_written_file_has_the_bytes_promised_and_reads_back(zoo, tmp_path):
    path = tmp_path / "net.moeash"
    n = container.write(path, zoo, notes={"a": "b"})
    assert path.stat().st_size == n == size(zoo, notes={"a": "b"}).total
    same(container.read(path).shared, zoo)
    assert [p.name for p in tmp_path.iterdir()] == ["net.moeash"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ContainerError, match=r"gone\.moeash.*No such file"):
        container.read(tmp_path / "gone.moeash")


def test_a_folder_that_is_not_there_is_an_export_error(zoo, tmp_path):
    with pytest.raises(ExportError, match="cannot write"):
        container.write(tmp_path / "no" / "net.moeash", zoo)


def test_a_target_that_cannot_be_replaced_is_kept(zoo, tmp_path):
    path = tmp_path / "net.moeash"
    path.mkdir()
    (path / "inside").write_text("old")
    with pytest.raises(ExportError, match="it is a folder"):
        container.write(path, zoo)
    assert (path / "inside").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.moeash"]


@pytest.mark.parametrize(
    "written, message",
    [
        (lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:], "not decode: the checksum"),
        (lambda data: data[:-1], "not decode: the checksum"),
        (lambda data: container.encode(tiny()), "not decode to the same network"),
    ],
)
def test_a_disk_that_loses_bits_never_gets_its_file_named(
    zoo, tmp_path, monkeypatch, written, message
):
    path = tmp_path / "net.moeash"
    path.write_bytes(b"old")
    spoiled = written(container.encode(zoo))

    def fsync(handle):
        os.ftruncate(handle, len(spoiled))
        os.pwrite(handle, spoiled, 0)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ExportError, match=message):
        container.write(path, zoo)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.moeash"]


FULL_DISK = """
import resource, signal, sys
from moeash.codec import container
from moeash.errors import ExportError
shared = container.read(sys.argv[1]).shared
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    container.write(sys.argv[2], shared)
except ExportError as exc:
    print("refused:", exc)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "net.moeash"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", FULL_DISK, str(V1 / "plain-ans.moeash"), str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.startswith("refused: cannot write"), done.stderr
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.moeash"]
