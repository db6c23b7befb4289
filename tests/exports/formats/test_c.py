import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeash.core.codebook import SharedWeights
from moeash.errors import ExportError
from moeash.exports.formats.base import Source
from moeash.exports.formats.c.header import CHeader
from moeash.exports.formats.c.packing import index_width, pack, unpack
from moeash.exports.formats.c.texts import identifiers, integers, text_literal, values_of
from moeash.networks.writing.decoding import tensors_of
from tests.exports.formats.odd import codebook, kept, odd_weights, shared
from tests.test_bad_input import full_disk

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

FLAGS = "-std=c99 -Wall -Wextra -Werror -pedantic -O1 -fsanitize=undefined -fno-sanitize-recover"

DUMP = """\
#define NET_IMPLEMENTATION
#include "net.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    unsigned char *buffer = malloc(NET_BYTES);
    size_t i;
    for (i = 0; i < NET_TENSORS; i++) {
        net_decode(i, buffer + net_tensors[i].offset);
        printf("%s %s %u %u\\n", net_tensors[i].name, net_tensors[i].dtype,
               (unsigned)net_tensors[i].elements, (unsigned)net_tensors[i].dimensions);
        if (net_tensors[i].dimensions)
            fwrite(net_tensors[i].shape, sizeof(size_t), net_tensors[i].dimensions, stdout);
        fwrite(buffer + net_tensors[i].offset, net_tensors[i].element_bytes,
               net_tensors[i].elements, stdout);
    }
    free(buffer);
    return 0;
}
"""


def written(folder, weights, metadata=(), name="net.h"):
    with CHeader().placing(Source(weights, dict(metadata)), folder / name):
        pass
    return folder / name


def compiled(folder, program):
    (folder / "main.c").write_text(program)
    command = f"gcc {FLAGS} main.c -o main"
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return subprocess.run(["./main"], cwd=folder, capture_output=True, check=True).stdout


def in_c(tensor):
    """Return the array that C has of a tensor: floats in the place of halves."""
    half = tensor.is_floating_point() and tensor.dtype.itemsize == 2
    return (tensor.float() if half else tensor).numpy()


@needs_gcc
def test_c_decodes_every_tensor_bit_for_bit(tmp_path):
    weights = odd_weights()
    written(tmp_path, weights)
    expected = b""
    for name, tensor in tensors_of(weights).items():
        array = in_c(tensor)
        elements = array.size * (2 if array.dtype.kind == "c" else 1)
        dtype = str(tensor.dtype).removeprefix("torch.")
        expected += f"{name} {dtype} {elements} {array.ndim}\n".encode()
        expected += np.array(array.shape, np.uintp).tobytes() + array.tobytes()
    assert compiled(tmp_path, DUMP) == expected


@needs_gcc
def test_names_that_are_no_identifiers_or_come_to_the_same_one_compile(tmp_path):
    names = ["a.b", "a_b", "A.B", "int", "data.0", "tensors", "*/", '"??/', "naïve", "", "0", "h"]
    values = np.arange(3, dtype=np.float32)
    weights = SharedWeights((), tuple(kept(name, values + i) for i, name in enumerate(names)))
    written(tmp_path, weights, {"study": "*/ ??/ \\ é\n#error"})
    dump = compiled(tmp_path, DUMP)
    for i, name in enumerate(names):
        assert name.encode() + b" float32 3 1\n" in dump
        assert (values + i).tobytes() in dump


@needs_gcc
def test_two_networks_are_embedded_in_one_program_of_several_files(tmp_path):
    weights = SharedWeights((codebook(5),), (shared("w", (4,), 5),))
    for name in ("net.h", "2nd-net.h"):
        written(tmp_path, weights, name=name)
    (tmp_path / "other.c").write_text('#include "net.h"\nsize_t n(void) { return NET_W_N; }\n')
    program = "#define NET_IMPLEMENTATION\n#define NET_2ND_NET_IMPLEMENTATION\n"
    program += '#include "net.h"\n#include "2nd-net.h"\n#include "net.h"\n'
    program += "int main(void) { float w[NET_2ND_NET_W_N]; net_2nd_net_w(w); net_w(w); return 0; }"
    (tmp_path / "main.c").write_text(program)
    command = f"gcc {FLAGS} main.c other.c -o main"
    done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_indices_take_no_more_bits_than_their_codebook_needs(tmp_path):
    widths = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 256: 8, 257: 9, 1 << 16: 16, (1 << 16) + 1: 17}
    assert {n: index_width(n) for n in widths} == widths
    path = written(tmp_path, SharedWeights((codebook(38),), (shared("w", (1000,), 38),)))
    assert "net_data_0[750]" in path.read_text()  # 1,000 indices of 6 bits


@given(st.integers(0, 20), st.integers(0, 70), st.integers(0, 2**32 - 1))
def test_packed_indices_are_the_indices(width, n, seed):
    indices = np.random.default_rng(seed).integers(0, 1 << width, n).astype(np.uint32)
    packed = pack(indices, width)
    assert packed.size == -(-width * n // 8)
    np.testing.assert_array_equal(unpack(packed, width, n), indices)


def test_metadata_stands_in_the_file(tmp_path):
    text = written(tmp_path, odd_weights(), {"study": "digits", "recipe": "{}"}).read_text()
    assert " * study: digits\n * recipe: {}\n" in text


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: re.sub(r"(net_data_0\[\d+\] = \{\n)(\d+)", r"\g<1>1\2", text),
        lambda text: re.sub(r"-0x1.b33334p\+0f,", "-0x1.b33336p+0f,", text),
        lambda text: text.replace("UINT32_C(2143289344)", "UINT32_C(2143289345)"),
    ],
    ids=["cut", "index", "entry", "nan"],
)
def test_a_text_that_decodes_to_something_else_is_refused(tmp_path, damage):
    path = written(tmp_path, odd_weights())
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(ExportError, match="the C file written"):
        CHeader().check(Source(odd_weights()), path)


def test_a_full_disk_leaves_what_was_there(tmp_path):
    (tmp_path / "net.h").write_text("before")
    with full_disk(1000), pytest.raises(ExportError, match=r"cannot write .*net.h'"):
        written(tmp_path, odd_weights())
    assert [p.name for p in tmp_path.iterdir()] == ["net.h"]
    assert (tmp_path / "net.h").read_text() == "before"


def test_a_network_without_tensors_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no tensors"):
        written(tmp_path, SharedWeights((), ()))
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_literals_read_back_are_their_values(dtype):
    info = np.iinfo(dtype)
    values = np.array([info.min, info.min + 1, -1 if info.min else 1, 0, info.max], dtype)
    np.testing.assert_array_equal(values_of(integers(values), np.dtype(dtype)), values)


def test_identifiers_differ_even_in_capitals_and_texts_hold_no_trigraph():
    chosen = identifiers(["a.b", "a_b", "A_B", "a-b"], "p_", ["P_A_B_2"])
    assert len({name.upper() for name in chosen.values()} | {"P_A_B_2"}) == 5
    assert text_literal('??/"\\\n') == r'"\?\?/\"\\\012"'
