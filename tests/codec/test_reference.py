"""The reference decoder reads what moeash reads, alone, and refuses what is damaged."""

import ast
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import constriction
import numpy as np
import pytest

from moeash.codec import codebooks, container, reference, streams
from moeash.codec.adaptive import coder as adaptive
from moeash.codec.bits import BitWriter, varint
from moeash.codec.layout import lay_out
from moeash.codec.pools import CODERS
from moeash.codec.static import rates
from moeash.codec.static.tables import Rows
from moeash.core.codebook import Codebook, KeptTensor, SharedWeights
from moeash.errors import ContainerError
from tests.codec.adaptive.twin import TRELLISES
from tests.codec.conftest import build_shared
from tests.codec.forging import V1, cuts, damage, flips, forged, sealed, sections
from tests.codec.paths import draw_path, network_on_trellises
from tests.marks import slow

SOURCE = Path(reference.__file__)
README = (Path(__file__).parents[2] / "README.md").read_text()
DUMPS = sorted(V1.parent.glob("*.hex"))
FILES = sorted(V1.parent.rglob("*.moeash"))

WITHOUT_MOEASH = """
import runpy, sys
sys.modules["moeash"] = None  # isolated as it is, the interpreter may have it installed
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def assert_same(found, wanted):
    """Compare names, their order, dtypes, shapes, every bit, and which names share an array."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name
    assert ties(found) == ties(wanted)


def ties(arrays):
    return [[a is b for b in arrays.values()] for a in arrays.values()]


def assert_read_alike(data):
    assert_same(reference.decode(data), container.decode(data).shared.decoded())


LONG = ("units-trellis", "units-adaptive", "steps-adaptive", "structured")
"""Files that take half a second to read, where others take a hundredth."""


@pytest.mark.parametrize(
    "path",
    [slow(path) if path.name.startswith(LONG) else path for path in FILES],
    ids=[path.name for path in FILES],
)
def test_every_file_of_the_assets_is_read_as_moeash_reads_it(path):
    assert_same(reference.decode(path.read_bytes()), container.read_arrays(path))


@pytest.mark.parametrize("path", DUMPS, ids=lambda path: path.name)
def test_every_dump_of_the_assets_is_read_as_moeash_reads_it(path):
    lines = path.read_text().splitlines()
    assert_read_alike(bytes.fromhex("".join(line.split("#")[0] for line in lines)))


def drawn(seed):
    """Return a small network: convolutions and matrices on several books, kept tensors, steps."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 60, 3).tolist()
    books = tuple(Codebook(np.sort(rng.normal(size=n)).astype(np.float32)) for n in sizes)
    tensors = []
    for i in range(6):
        book = int(rng.integers(3))
        zero = int(np.abs(books[book].entries).argmin())
        shape = tuple(rng.integers(1, 7, int(rng.integers(1, 5))).tolist())
        n_states = int(rng.choice(list(TRELLISES)))
        indices, _ = draw_path(rng, shape, sizes[book], zero, n_states, 2.0)
        tensors.append(build_shared(f"m.{i}.w", book, indices, sizes[book], shape=shape))
        values = rng.integers(-99, 99, 5).astype(rng.choice(["int8", "int16"]))
        tensors.append(KeptTensor(f"m.{i}.b", (5,), "float32", values, int(rng.integers(-9, 9))))
    return SharedWeights(books, tuple(tensors))


@pytest.mark.parametrize("coder", CODERS)
@pytest.mark.parametrize("seed", range(4))
def test_networks_drawn_now_are_read_as_moeash_reads_them(coder, seed):
    assert_read_alike(container.encode(drawn(seed), coder=coder, notes={"seed": str(seed)}))


@pytest.mark.parametrize("coder", CODERS)
def test_everything_the_format_can_hold_is_read(coder, zoo):
    assert_read_alike(container.encode(zoo, coder=coder))


@pytest.mark.parametrize("n_entries", [1, 2, 300, 5000])
@pytest.mark.parametrize("shift", [slow(0), 3])
def test_adaptive_streams_of_narrow_and_wide_alphabets_are_read(n_entries, shift):
    rng, zero = np.random.default_rng(0), n_entries // 3
    shapes = [(20, 6, 3, 3), (12, 20), (50,)]
    states = [0, 8, 0]
    tensors = [
        draw_path(rng, shape, n_entries, zero, n, n_entries / 9)
        for shape, n in zip(shapes, states, strict=True)
    ]
    data = adaptive.encode(tensors, n_entries, zero, states, shift=shift)
    taken = [reference.Tensor("", 1, np.dtype("f4"), s, int(np.prod(s)), data) for s in shapes]
    section = (bytes([shift]) if shift else b"") + varint(len(data)) + data
    book = np.arange(-zero, n_entries - zero).astype("f4")
    sources = [(0, list(zip(taken, states, strict=True)))]
    reference.read_adaptive(reference.Bits(section), sources, [book], bool(shift))
    for tensor, (indices, _) in zip(taken, tensors, strict=True):
        assert tensor.coded.tolist() == indices.tolist()


def rotated(shared, salt):
    """Return the file the encoder would write if no salt below this one did."""
    layout = lay_out(shared, coder="ans")
    bits, coder = BitWriter(), constriction.stream.stack.AnsCoder()
    codebooks.write_all(bits, shared.codebooks)
    coded = streams.write_tables(bits, layout)
    for ranks, table, _ in reversed(streams.symbols_of(shared, layout.kept.groups, coded)):
        shares = np.roll(
            rates.frequencies(Rows.listed([table]), table.levels, table.resolution), salt
        )
        model = constriction.stream.model.Categorical((shares - 1).astype("f4"), perfect=False)
        coder.encode_reverse((ranks() + salt).astype("i4") % len(shares), model)
    payload = coder.get_compressed().astype("<u4").tobytes().ljust(layout.payload_bytes, b"\0")
    return sealed(
        container.MAGIC + bytes([1, 0, 0, salt]), layout.directory, bits.to_bytes(), payload
    )


def test_a_rotation_of_the_slots_is_undone(layers):
    shared = layers([500, 40, 30], 20)
    assert rotated(shared, 0) == container.encode(shared)
    assert_read_alike(rotated(shared, 7))


def test_parts_of_a_long_stream_are_read_whatever_their_slots_and_refused_with_more_bytes(
    layers, monkeypatch
):
    monkeypatch.setattr(rates, "PART", 100)
    monkeypatch.setattr(reference, "PART", 100)
    data = container.encode(layers([500, 40, 33], 20))
    assert_read_alike(data)
    head, *parts, payload = sections(data)
    for n in (1, 4, 40):
        with pytest.raises(ValueError, match="no sound"):
            reference.decode(sealed(head, *parts, payload + bytes(n)))
    for at in range(0, len(payload), 7):
        spoiled = payload[:at] + bytes([payload[at] ^ 64]) + payload[at + 1 :]
        with pytest.raises(ValueError, match="no sound"):
            reference.decode(sealed(head, *parts, spoiled))


def test_a_payload_of_one_state_with_more_bytes_is_refused(layers):
    head, *parts, payload = sections(container.encode(layers([500, 40, 33], 20)))
    for n in (1, 4, 40):
        with pytest.raises(ValueError, match="no sound"):
            reference.decode(sealed(head, *parts, payload + bytes(n)))


def test_the_module_imports_nothing_but_python_and_numpy():
    names = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or "").split(".")[0])
    assert "numpy" in names
    assert names - {"numpy"} <= sys.stdlib_module_names


def test_the_file_copied_alone_runs_where_there_is_no_moeash(tmp_path):
    script, target = tmp_path / "alone.py", tmp_path / "arrays.npz"
    shutil.copy(SOURCE, script)
    source = V1 / "zoo-adaptive.moeash"
    command = [sys.executable, "-I", "-c", WITHOUT_MOEASH, str(script), str(source), str(target)]
    subprocess.run(command, cwd=tmp_path, check=True)
    with np.load(target) as loaded:
        arrays, wanted = dict(loaded), container.read_arrays(source)
    assert list(arrays) == list(wanted)
    for name, array in wanted.items():
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array), name


def test_the_readmes_lines_read_a_file(tmp_path, monkeypatch):
    (snippet,) = re.findall(r"```python\n(import pathlib\nimport reference\n.*?)```", README, re.S)
    shutil.copy(SOURCE, tmp_path)
    shutil.copy(V1 / "plain-huffman.moeash", tmp_path / "network.moeash")
    monkeypatch.chdir(tmp_path)
    check = f"{snippet}\nimport sys\nassert 'moeash' not in sys.modules and len(arrays) == 13"
    subprocess.run([sys.executable, "-c", check], cwd=tmp_path, check=True)


def test_a_file_cut_anywhere_is_refused(zoo):
    for cut in cuts(container.encode(zoo)):
        with pytest.raises(ValueError, match="no sound"):
            reference.decode(cut)


def test_a_flip_of_any_bit_is_refused(zoo):
    for flipped in flips(container.encode(zoo)):
        with pytest.raises(ValueError, match="no sound"):
            reference.decode(flipped)


@pytest.mark.slow
def test_damage_under_a_sound_checksum_is_refused_or_read_as_moeash_reads_it():
    slow = ("units", "s-adaptive", "long")
    paths = [path for path in FILES if not any(part in path.name for part in slow)]
    files = [path.read_bytes() for path in paths]
    files.append(container.encode(network_on_trellises([8, 4])))
    rng = np.random.default_rng(5)
    refused = 0
    tracemalloc.start()
    try:
        for turn in range(200):
            data = forged(files[turn % len(files)], rng)
            started = time.process_time()
            try:
                arrays = reference.decode(data)
            except ValueError:
                arrays, refused = None, refused + 1
            assert time.process_time() - started < 20
            try:
                wanted = container.decode(data).shared.decoded()
            except ContainerError:
                continue  # it knows every rule of the format, the reference those against harm
            assert arrays is not None, turn
            assert_same(arrays, wanted)
        assert tracemalloc.get_traced_memory()[1] < 600 << 20
    finally:
        tracemalloc.stop()
    assert refused > 100


def test_damage_is_refused_before_anything_is_read():
    rng = np.random.default_rng(0)
    data = FILES[0].read_bytes()
    for _ in range(200):
        with pytest.raises(ValueError, match="no sound"):
            reference.decode(damage(data, rng))
