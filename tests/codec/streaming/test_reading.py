import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.static import rates
from moeash.codec.streaming import reading
from moeash.codec.streaming.reading import FileReader
from moeash.core.codebook import Codebook, SharedTensor, SharedWeights
from moeash.errors import ContainerError, CorruptContainerError
from tests.codec.forging import cuts, damage, flips, sealed, sections


def read(path, max_bytes=None):
    """Return a file's symbols by tensor and plane, put together from its runs."""
    with FileReader(path, max_bytes=max_bytes) as reader:
        found = {}
        for run in reader.runs():
            key = reader.entries[run.position].name, run.source.plane
            parts = found.setdefault(key, [])
            assert run.begin == sum(part.size for part in parts)
            parts.append(run.symbols)
        return reader, {key: np.concatenate(parts) for key, parts in found.items()}


@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_runs_put_together_are_what_is_decoded_at_once(zoo, tmp_path, chunk, monkeypatch):
    monkeypatch.setattr(rates, "PART", chunk)
    monkeypatch.setattr(reading, "CHUNK", chunk)
    container.write(tmp_path / "x.moeash", zoo, notes={"a": "b"})
    reader, found = read(tmp_path / "x.moeash")
    assert dict(reader.notes) == {"a": "b"}
    for tensor in zoo.shared:
        if tensor.size:
            np.testing.assert_array_equal(found[tensor.name, None], tensor.indices)
            assert found[tensor.name, None].dtype == tensor.indices.dtype
    for tensor in zoo.kept:
        if tensor.size:
            planes = [found[tensor.name, plane] for plane in range(tensor.values.itemsize)]
            assert np.stack(planes, axis=1).tobytes() == tensor.values.tobytes()


def refused_or_read(path, data):
    path.write_bytes(data)
    try:
        read(path)
    except ContainerError:
        return True
    return False


def test_files_cut_or_flipped_are_refused(zoo, tmp_path):
    data = container.encode(zoo)
    spoiled_files = [*cuts(data), *flips(data)]
    for spoiled in spoiled_files[::9]:
        assert refused_or_read(tmp_path / "x.moeash", spoiled)


def test_damage_behind_a_checksum_that_fits_raises_nothing_but_our_error(zoo, tmp_path):
    rng = np.random.default_rng(1)
    head, *parts = sections(container.encode(zoo))
    refused = 0
    for _ in range(300):
        part = int(rng.integers(len(parts)))
        spoiled = [damage(p, rng) if i == part else p for i, p in enumerate(parts)]
        refused += refused_or_read(tmp_path / "x.moeash", sealed(head, *spoiled))
    assert refused > 200


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    head, packed, *others = sections(
        container.encode(
            SharedWeights(
                (Codebook(np.zeros(1)),),
                tuple(
                    SharedTensor(name, (1,), "float32", 0, np.zeros(1, np.uint8), np.array([1]))
                    for name in ("a", "b")
                ),
            )
        )
    )
    (tmp_path / "x.moeash").write_bytes(sealed(head, packed.replace(b"b", b"a"), *others))
    with pytest.raises(CorruptContainerError, match="a name occurs twice"):
        read(tmp_path / "x.moeash")


def test_what_a_file_may_claim_is_its_decoded_size_not_its_memory(tmp_path):
    n = 100 << 20
    indices = np.zeros(n, np.uint8)
    tensor = SharedTensor("w", (n,), "float32", 0, indices, np.array([n]))
    path = tmp_path / "x.moeash"
    path.write_bytes(container.encode(SharedWeights((Codebook(np.zeros(1)),), (tensor,))))
    with pytest.raises(CorruptContainerError, match=r"network of 4\d{8} bytes.*max_bytes=4"):
        read(path)
    with FileReader(path, max_bytes=500 << 20) as reader:
        assert next(reader.runs()).symbols.size == reading.CHUNK


@pytest.mark.parametrize("coder", ["huffman", "adaptive"])
def test_other_coders_are_told_by_name_and_have_no_runs(zoo, tmp_path, coder):
    container.write(tmp_path / "x.moeash", zoo, coder=coder)
    with FileReader(tmp_path / "x.moeash", max_bytes=None) as reader:
        assert (reader.coder, reader.sources) == (coder, [])


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ContainerError, match=r"cannot read '.*gone.moeash': No such file"):
        FileReader(tmp_path / "gone.moeash", max_bytes=None)
