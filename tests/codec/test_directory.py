import numpy as np
import pytest

from moeash.codec import directory
from moeash.codec.entries import Entry, entries_of, notes_of
from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.errors import InputError


def resnet20():
    """The entries of a ResNet-20 for CIFAR with batch normalisation."""
    entries = []

    def add(name, kind, shape, dtype="float32", stored=""):
        entries.append(Entry(name, kind, shape, dtype, stored))

    def norm(name, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            add(f"{name}.{leaf}", "kept", (width,), stored="float16")
        add(f"{name}.num_batches_tracked", "kept", (), "int64", "int64")

    add("conv1.weight", "shared", (16, 3, 3, 3))
    norm("bn1", 16)
    before = 16
    for layer, width in enumerate((16, 32, 64), start=1):
        for block in range(3):
            for conv in (1, 2):
                add(f"layer{layer}.{block}.conv{conv}.weight", "shared", (width, before, 3, 3))
                norm(f"layer{layer}.{block}.bn{conv}", width)
                before = width
    add("linear.weight", "shared", (10, 64))
    add("linear.bias", "kept", (10,), stored="float16")
    return tuple(entries)


def test_the_directory_of_a_resnet20_comes_back_in_under_350_bytes():
    entries = resnet20()
    packed = directory.pack(entries, (("network", "resnet20"),))
    assert directory.unpack(packed, 1 << 20) == (entries, (("network", "resnet20"),))
    assert len(entries) == 116
    assert len(packed) < 350


@pytest.mark.parametrize(
    "name, shape, notes, message",
    [
        ("x" * 1025, (1,), {}, "a name takes at most 1024 bytes"),
        ("x", (1,) * 33, {}, "33 dimensions"),
        ("x", (1,), {str(i): "" for i in range(65)}, "at most 64 notes"),
        ("x", (1,), {"a": "b" * 70_000}, "at most 65536 bytes"),
        ("\ud800", (1,), {}, "not valid text"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(name, shape, notes, message):
    if len(shape) > 32:
        entries = (Entry(name, "kept", shape, "float32", "float32"),)
    else:
        tensor = KeptTensor(name, shape, "float32", np.zeros(shape, dtype=np.float32))
        entries = entries_of(SharedWeights((), (tensor,)))
    with pytest.raises(InputError, match=message):
        directory.pack(entries, notes_of(notes))


def test_a_dtype_the_format_does_not_know_is_refused():
    tensor = KeptTensor("x", (1,), "float32", np.zeros(1, dtype="datetime64[s]"))
    entries = entries_of(SharedWeights((), (tensor,)))
    with pytest.raises(InputError, match="does not know"):
        directory.pack(entries, ())


def test_too_many_tensors_are_refused():
    entries = tuple(Entry(str(i), "kept", (), "bool", "bool") for i in range(65_537))
    with pytest.raises(InputError, match="at most 65536 tensors"):
        directory.pack(entries, ())


def test_names_share_front_and_back_with_the_one_before():
    assert directory.overlap(b"layer1.0.conv1.weight", b"layer1.0.conv2.weight") == (13, 7)
    assert directory.overlap(b"aa", b"aaa") == (2, 0)
    assert directory.overlap(b"", b"x") == (0, 0)


@pytest.mark.slow
def test_a_directory_that_would_unpack_to_too_much_is_written_plainly():
    entries = tuple(Entry("x", "kept", (), "bool", "bool") for _ in range(30_000))
    packed = directory.pack(entries, ())
    assert packed[0] == 0
    assert directory.unpack(packed, 1 << 30) == (entries, ())
    few = entries[:3000]
    packed = directory.pack(few, ())
    assert packed[0] == 1
    assert directory.unpack(packed, 1 << 30) == (few, ())
