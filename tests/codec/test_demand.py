"""What a file says it takes is checked before anything is allocated, and is what it takes."""

import re
import sys
import tracemalloc

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.demand import DEFAULT_MAX_BYTES, Demand, default_limit, demand_of
from moeash.codec.entries import entries_of
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, TiedTensor
from moeash.core.trellis import values_of
from moeash.errors import CorruptContainerError
from tests.codec.forging import with_entries
from tests.marks import slow
from tests.memory import refusal


def constant(n, dtype="float32"):
    """A network of n weights that takes some fifty bytes."""
    indices = np.broadcast_to(np.uint8(0), (n,))
    tensor = SharedTensor("w", (n,), dtype, 0, indices, np.array([n]))
    return SharedWeights((Codebook(np.array([1.0])),), (tensor,))


def demand(shared, *, adaptive=False):
    return demand_of(entries_of(shared), shared.codebooks, adaptive=adaptive)


def test_every_part_is_counted(zoo):
    kept = KeptTensor("k", (3, 5), "float32", np.zeros((3, 5), np.float16))
    ties = (TiedTensor("t", "k"), TiedTensor("tt", "t"))
    book = Codebook(np.arange(300))
    indices = np.zeros(40, np.uint16)
    shared = SharedTensor("s", (4, 10), "float64", 0, indices, np.bincount(indices, minlength=300))
    network = SharedWeights((book,), (kept, *ties, shared))
    tables = demand(network)
    assert tables == Demand(
        names=4 * 1024 + 4 * len("kttts"),
        stored=15 * 2 + 40 * 2 + 300 * 8,
        values=15 * 4 + 40 * 8,
        ties=2 * 15 * 4,
        work=0,
        on_disk=3 * 15 * 4 + 40 * 8,
    )
    assert demand(network, adaptive=True).work > 0
    assert tables.total == sum(vars(tables).values()) - tables.on_disk
    assert tables.written == tables.names + tables.on_disk


def test_the_limit_grows_with_the_file():
    assert default_limit(50) == DEFAULT_MAX_BYTES
    assert default_limit(1 << 30) == 1 << 40


@pytest.mark.parametrize("dtype", [slow("float32"), "float64"])
def test_a_huge_constant_network_needs_the_reader_to_agree(dtype):
    shared = constant(100 << 20, dtype)
    data = container.encode(shared)
    assert len(data) < 60
    total = demand(shared).total
    tracemalloc.start()
    try:
        with pytest.raises(CorruptContainerError, match=f"max_bytes={total}$"):
            container.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_is_read_at_exactly_the_limit_it_names():
    shared = constant(1000)
    data = container.encode(shared)
    total = demand(shared).total
    assert container.decode(data, max_bytes=total).shared.fingerprint() == shared.fingerprint()
    with pytest.raises(CorruptContainerError, match=f"max_bytes={total}$"):
        container.decode(data, max_bytes=total - 1)


@pytest.mark.parametrize(
    ("coder", "dtype", "shape", "n_states"),
    [
        ("ans", "float64", (3_000_000,), 0),
        ("huffman", "float32", (3000, 1000), 0),
        slow("adaptive", "float32", (3_000_000,), 0),
        slow("adaptive", "float64", (3000, 1000), 8),
    ],
)
def test_reading_takes_no_more_than_was_said(coder, dtype, shape, n_states):
    scale = np.linspace(0.1, 2, 3000)  # structure, which the adaptive coder takes
    values = np.rint(np.random.default_rng(0).normal(size=(1000, 3000)) * scale).T.astype(np.int32)
    if n_states:
        values = values_of(values.ravel(), shape, n_states)
    indices = np.clip(values.ravel() + 20, 0, 40).astype(np.uint8)
    counts = np.bincount(indices, minlength=41)
    tensor = SharedTensor("w", shape, dtype, 0, indices, counts)
    kept = KeptTensor("b", (500_000,), "float32", np.zeros(500_000, np.float16))
    shared = SharedWeights((Codebook(np.arange(-20, 21) / 8),), (tensor, kept))
    data = container.encode(shared, coder=coder)
    said = demand(shared, adaptive=coder == "adaptive").total
    tracemalloc.start()
    try:
        container.decode(data).shared.decoded()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(data) + said + (32 << 20)
    assert peak > said / 4  # nor is it a bound that nothing could reach


@pytest.mark.slow
def test_names_that_grow_out_of_nothing_are_refused_while_they_are_read():
    long = "ü" * 500
    kept = tuple(
        KeptTensor(f"{long}{i:05}", (0,), "float32", np.empty(0, np.float32)) for i in range(12_000)
    )
    shared = SharedWeights((), kept)
    data = container.encode(shared)
    assert len(data) < 200_000
    with pytest.raises(CorruptContainerError, match="bytes of memory") as refused:
        container.decode(data, max_bytes=4 << 20)
    (claimed,) = re.findall(r"claims (\d+) bytes", str(refused.value))
    assert int(claimed) - (4 << 20) < demand(shared).total - int(claimed)  # the last were not read


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_machine_without_the_memory_says_so(tmp_path):
    path = tmp_path / "huge.moeash"
    small = container.encode(constant(1000))
    huge = with_entries(small, lambda entries: [entries[0]._replace(shape=(1 << 36,))])
    path.write_bytes(huge)
    imports = "from moeash.codec import container; from moeash.core.trellis import values_of"
    question = "container.read(sys.argv[1], max_bytes=1 << 60)"
    said = refusal(path, imports, question, "ContainerError", gib=2)
    assert said.startswith("refused: there is not enough memory")
