"""Damaged and hostile files: refused with our error, in bounded memory and time."""

import bz2
import hashlib
import tracemalloc

import numpy as np
import pytest

from moeash.codec import codebooks, container, directory
from moeash.codec.bits import BitWriter, varint
from moeash.codec.entries import DTYPES, Entry, lossless
from moeash.codec.layout import lay_out
from moeash.core.codebook import Codebook, KeptTensor, SharedWeights
from moeash.errors import ContainerError, CorruptContainerError, InputError
from tests.codec.forging import V1, cuts, damage, flips, forged, sealed, sections
from tests.codec.paths import network_of_wide_alphabets, network_on_trellises

REAL = (V1 / "plain-ans.moeash").read_bytes()


def test_two_thousand_random_corruptions_are_all_refused():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        with pytest.raises(ContainerError):
            container.decode(damage(REAL, rng))


def test_a_file_cut_at_any_length_is_refused(zoo):
    for cut in cuts(container.encode(zoo)):
        with pytest.raises(CorruptContainerError):
            container.decode(cut)


def test_a_flip_of_any_bit_is_refused(zoo):
    for flipped in flips(container.encode(zoo)):
        with pytest.raises(ContainerError):
            container.decode(flipped)


def refused_or_read(data):
    """Decode; any error but ours escapes. Return whether it was refused."""
    try:
        container.decode(data)
    except ContainerError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("coder", ["ans", "huffman", "adaptive"])
def test_a_valid_checksum_over_damage_raises_nothing_else_and_stays_small(zoo, coder):
    assert_damage_is_refused(container.encode(zoo, coder=coder, notes={"a": "b"}))


@pytest.mark.slow
def test_a_valid_checksum_over_damaged_trellises_raises_nothing_else_and_stays_small():
    shared = network_on_trellises([8, 4, 0])
    assert any(lay_out(shared, coder="adaptive").adaptive[0].trellises)
    assert_damage_is_refused(container.encode(shared, coder="adaptive", notes={"a": "b"}))


@pytest.mark.slow
def test_a_valid_checksum_over_damaged_units_raises_nothing_else_and_stays_small():
    shared = network_of_wide_alphabets()
    assert lay_out(shared, coder="adaptive").adaptive[0].shift
    assert_damage_is_refused(container.encode(shared, coder="adaptive"), n=150)


def assert_damage_is_refused(data, n=300):
    head, *parts = sections(data)
    assert not refused_or_read(sealed(head, *parts))
    rng = np.random.default_rng(1)
    refused = 0
    tracemalloc.start()
    try:
        for turn in range(n):
            changed = list(parts)
            which = turn % len(parts)
            changed[which] = damage(parts[which], rng)
            refused += refused_or_read(sealed(head, *changed))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused > n // 3
    assert peak < 16 << 20


def hostile(entries, notes=(), *, model=b"\x80", payload=b""):
    """Return a file with a directory that the writer would refuse to make."""
    plain = directory.columns(tuple(entries), tuple(notes))
    return sealed(b"\x8dMSH\1\0\0\0", b"\0" + plain, model, payload)


def entry(**kwargs):
    fields = {"name": "w", "kind": "kept", "shape": (2,), "dtype": "float32", "stored": "float32"}
    return Entry(**{**fields, **kwargs})


@pytest.mark.parametrize(
    "entries, message",
    [
        ([entry(shape=(2**39, 2))], "max_bytes"),
        ([entry(shape=(2**39, 3))], "above 1099511627776 elements"),
        ([entry(shape=(2**41,))], "where 1099511627776 is the limit"),
        ([entry(shape=(0, 2**40, 2))], "above 1099511627776 elements"),
        ([entry(shape=(1,) * 33)], "where 32 is the limit"),
        ([entry(name="x" * 1025)], "where 1024 is the limit"),
        ([entry(name="x" * 1000), entry(name="x" * 1000 + "y" * 1000)], "more than 1024 bytes"),
        ([entry(shape=(0,)), entry(shape=(0,))], "twice"),
        ([entry(kind="shared", stored="", shape=(5,))], "uses codebook 0 of 0"),
        ([entry(kind="shared", stored="", dtype="int64")], "only floats are shared"),
        ([entry(stored="bfloat16")], "travels as float32"),
        ([entry(kind="tied", shape=(), dtype="", stored="")], "tied to a tensor after it"),
    ],
)
def test_absurd_directories_are_refused_without_allocating(entries, message):
    data = hostile(entries)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptContainerError, match=message):
            container.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "plain, message",
    [
        (b"\0" + varint(2**30), "claims 1073741824 tensors"),
        (varint(65), "claims 65 notes"),
        (b"\0" + varint(60_000), "60000 bytes follow"),
        (b"\0\1\xff", "directory is too short|bytes follow"),
        (b"\0\1\x02\x0f", "unknown dtype 15"),
        (b"\1\1a\1", "bytes follow"),
        (b"\1\1\xff\1a\0", "not UTF-8"),
        (b"\2\1b\1x\1a\1y\0", "not sorted"),
        (b"\0\x80\0", "shortest form"),
        (b"\0\0more", "4 stray bytes"),
    ],
)
def test_absurd_columns_are_refused(plain, message):
    with pytest.raises(CorruptContainerError, match=message):
        container.decode(sealed(b"\x8dMSH\1\0\0\0", b"\0" + plain, b"\x80", b""))


def test_a_directory_that_decompresses_without_end_is_refused_in_bounded_memory():
    bomb = b"\1" + bz2.compress(bytes(40 << 20))
    data = sealed(b"\x8dMSH\1\0\0\0", bomb, b"\x80", b"")
    assert len(data) < 1000
    tracemalloc.start()
    try:
        with pytest.raises(CorruptContainerError, match=f"above {65536 + 256 * len(bomb)} bytes"):
            container.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_absurd_codebooks_are_refused():
    for count, message in [(5000, "5000 codebooks"), (1, "entries, more than the file")]:
        bits = BitWriter()
        bits.golomb(count, 0)
        bits.golomb(2**30, 4)
        with pytest.raises(CorruptContainerError, match=message):
            container.decode(sealed(b"\x8dMSH\1\0\0\0", b"\0\0\0", bits.to_bytes(), b""))


def test_lengths_that_leave_a_hole_or_overlap_are_refused(zoo):
    head, *parts = sections(container.encode(zoo))
    whole = sealed(head, *parts)
    body = whole[:-8] + b"hidden"
    with pytest.raises(CorruptContainerError, match="bytes follow its header"):
        container.decode(body + hashlib.blake2b(body, digest_size=8).digest())


def test_unknown_coders_and_version_0_are_refused(zoo):
    head, *parts = sections(container.encode(zoo))
    with pytest.raises(CorruptContainerError, match="unknown coder 4"):
        container.decode(sealed(head[:6] + b"\4\0", *parts))
    with pytest.raises(CorruptContainerError, match="version 0, which there never was"):
        container.decode(sealed(head[:4] + b"\0\0" + head[6:], *parts))


def test_something_else_is_no_container():
    for data in (b"", b"PK\3\4" + bytes(100), b"\x8dMSH"):
        with pytest.raises(CorruptContainerError):
            container.decode(data)


@pytest.mark.slow
def test_forged_files_raise_nothing_else_and_stay_small():
    files = [path.read_bytes() for path in sorted(V1.glob("*.moeash"))]
    rng = np.random.default_rng(2)
    refused = 0
    tracemalloc.start()
    try:
        for turn in range(1500):
            data = forged(files[turn % len(files)], rng)
            refused += refused_or_read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused > 1000
    assert peak < 200 << 20


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("float32", "complex64"),
        ("float32", "float64"),
        ("float16", "float32"),
        ("float16", "int16"),
        ("int64", "float32"),
        ("int8", "int16"),
        ("float64", "int64"),
        ("complex128", "uint64"),
        ("uint64", "int8"),
        ("bool", "uint8"),
    ],
)
def test_stored_values_that_the_dtype_in_the_network_cannot_hold_are_refused(dtype, stored):
    message = f"stored as {stored}, which {dtype} cannot hold"
    with pytest.raises(CorruptContainerError, match=message):
        container.decode(hostile([entry(dtype=dtype, stored=stored)]))
    tensor = KeptTensor("w", (2,), dtype, np.zeros(2, dtype=stored))
    with pytest.raises(InputError, match=message):
        container.encode(SharedWeights((), (tensor,)))


def test_every_stored_value_comes_back_exactly_in_the_dtype_of_the_network():
    extremes = []
    for name in set(DTYPES) - {"bfloat16"}:
        for dtype in DTYPES:
            if not lossless(name, dtype):
                continue
            kind = np.dtype(name).kind
            if kind in "iu":
                values = [np.iinfo(name).min, np.iinfo(name).max, np.iinfo(name).max - 1, 1]
            elif kind == "b":
                values = [False, True]
            else:
                info = np.finfo(name)
                values = [info.max, info.tiny, info.smallest_subnormal, 1 + info.eps, np.inf]
            array = np.array(values, dtype=name)
            extremes.append(KeptTensor(f"{dtype} {name}", array.shape, dtype, array))
    shared = SharedWeights((), tuple(extremes))
    decoded = container.decode(container.encode(shared)).shared.decoded()
    assert len(extremes) > 60
    for tensor in extremes:
        assert [v.item() for v in decoded[tensor.name]] == [v.item() for v in tensor.values]


def test_a_payload_too_short_for_its_symbols_is_refused_before_it_is_decoded():
    n = 20_000_000
    bits = BitWriter()
    codebooks.write_all(bits, (Codebook(np.array([0.0, 1.0])),))
    bits.fixed(0b10, 2)  # flat: a bit a symbol
    shared = entry(kind="shared", stored="", shape=(n,))
    for payload in (b"", b"\0" * 52, b"\1" * 52):
        data = hostile([shared], model=bits.to_bytes(), payload=payload)
        message = f"at least, but the file has {len(payload)}"
        with pytest.raises(CorruptContainerError, match=message):
            container.decode(data, max_bytes=1 << 30)


@pytest.mark.parametrize(
    "name", ["zoo-ans", "zoo-huffman", "zoo-adaptive", "plain-ans", "plain-adaptive", "long-ans"]
)
def test_a_payload_with_zeros_behind_it_is_no_second_file_of_the_same_network(name):
    path = V1 / f"{name}.moeash"
    head, packed, model, payload, *more = sections(path.read_bytes())
    container.decode(sealed(head, packed, model, payload, *more))
    for n in (1, 4, 1000):
        with pytest.raises(CorruptContainerError, match=r"coded indices|bytes|follow"):
            container.decode(sealed(head, packed, model, payload + bytes(n), *more))
