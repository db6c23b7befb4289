"""The adaptive coder: hostile streams, refusals, bounds checks, and what real indices take."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.numpy import load_file

from moeash.codec.adaptive import coder as adaptive
from moeash.codec.adaptive import model, walk
from moeash.core.codebook import index_dtype
from moeash.errors import CorruptContainerError, InputError
from tests.codec.adaptive.drawing import (
    ALPHABETS,
    assert_round_trip,
    draw_tensor,
    encoded_bytes,
    hostile_streams,
    load_module,
    order0_bytes,
    problems,
    shapes_of,
)
from tests.codec.paths import draw_path
from tests.marks import few_quick, slow

# --- hostile bytes --------------------------------------------------------------------------


@pytest.mark.slow
@given(problems())
@settings(deadline=None)
def test_appended_zeros_are_refused(problem):
    tensors, n_entries, zero = problem
    stream = adaptive.encode(*problem)
    for appended in (1, 4, 8, 9):
        with pytest.raises(CorruptContainerError):
            adaptive.decode(stream + bytes(appended), shapes_of(tensors), n_entries, zero)


@pytest.mark.parametrize("cut", [0, 1, 7, 8, 9, 100, -1])
def test_a_stream_cut_short_is_refused(cut):
    # Not certain of every stream: the bytes left may be those of other tensors.
    rng = np.random.default_rng(9)
    tensors = [draw_tensor(rng, (10, 8, 3, 3), 41, 20, 2.0)]
    stream = adaptive.encode(tensors, 41, 20)
    with pytest.raises(CorruptContainerError):
        adaptive.decode(stream[:cut], shapes_of(tensors), 41, 20)


@pytest.mark.parametrize("shift", [0, slow(1), slow(5)])
@pytest.mark.parametrize("n_entries", few_quick(ALPHABETS[1:], 2, 5000))
def test_hostile_streams_are_refused_or_decode_inside_the_alphabet(n_entries, shift):
    rng = np.random.default_rng(n_entries)
    zero = int(rng.integers(n_entries))
    tensors = [
        draw_tensor(rng, (4, 3, 3, 3), n_entries, zero, n_entries / 9),
        draw_tensor(rng, (5, 4), n_entries, zero, n_entries / 9),
    ]
    stream = adaptive.encode(tensors, n_entries, zero, shift=shift)
    refused = 0
    for altered in hostile_streams(rng, stream, 1500):
        try:
            decoded = adaptive.decode(altered, shapes_of(tensors), n_entries, zero, shift=shift)
        except CorruptContainerError:
            refused += 1
            continue
        assert [a.size for a in decoded] == [108, 20]
        assert all(a.max() < n_entries for a in decoded)
        again = [(a, shape) for a, shape in zip(decoded, shapes_of(tensors), strict=True)]
        assert encoded_bytes(again, n_entries, zero, shift=shift) == len(altered)
    assert refused > 500


def test_shapes_no_stream_could_fill_are_refused_before_anything_is_allocated():
    tracemalloc.start()
    with pytest.raises(CorruptContainerError, match="cannot hold 1000000000000 indices"):
        adaptive.decode(b"\x12" * 1000, [(10**6, 10**6)], 41, 20)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_a_stream_that_ends_early_stops_the_decoder_early():
    rng = np.random.default_rng(7)
    # Three entries, so that no magnitude can be what gives the stream away.
    stream = adaptive.encode([draw_tensor(rng, (1, 30_000), 3, 1, 1.0)], 3, 1)
    with pytest.raises(CorruptContainerError, match="end early"):
        adaptive.decode(stream[:1000], [(1, 3_000_000)], 3, 1)


def test_the_longest_run_of_zeros_fits_the_bound_on_weights_per_byte():
    indices = np.zeros(3_000_000, np.uint8)
    data = assert_round_trip([(indices, (1000, 3000))], 2, 0)
    assert indices.size < adaptive.WEIGHTS_PER_BYTE * len(data)


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "indices, shape, n_entries, zero, message",
    [
        ([0, 1], (3,), 2, 0, r"indices of shape \(2,\), needed \(3,\)"),
        ([0, 2], (2,), 2, 0, "indices from 0 to 2, outside 2 entries"),
        ([0, 1], (2,), 2, 2, "zero is entry 2, outside the 2 entries"),
        ([0, 1], (2,), 2, -1, "zero is entry -1"),
        ([0, 1], (2,), 0, 0, "0 entries; the adaptive coder takes 1 to"),
        ([0, 1], (2,), (1 << 24) + 1, 0, "16777217 entries"),
        ([0.0, 1.0], (2,), 2, 0, "dtype float64"),
    ],
)
def test_bad_tensors_are_refused_with_the_reason(indices, shape, n_entries, zero, message):
    with pytest.raises(InputError, match=message):
        adaptive.encode([(np.array(indices), shape)], n_entries, zero)


def test_a_negative_extent_is_refused():
    with pytest.raises(CorruptContainerError, match="negative extent"):
        adaptive.decode(b"\0", [(-2, -3)], 3, 1)


def test_bytes_where_none_are_needed_are_refused():
    with pytest.raises(CorruptContainerError, match="3 bytes of indices where none"):
        adaptive.decode(b"abc", [(4,)], 1, 0)


# --- the same code with bounds checks --------------------------------------------------------


@pytest.mark.slow
def test_no_index_leaves_its_array_in_a_build_with_bounds_checks(tmp_path, monkeypatch):
    source = tmp_path / "_rows.pyx"
    directives = ["-X", "boundscheck=True", "-X", "wraparound=False"]
    folder = Path(adaptive.__file__).parent
    shutil.copy(folder / "_rows.pyx", source)
    subprocess.run(
        [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-f", *directives, str(source)],
        check=True,
        capture_output=True,
        cwd=tmp_path,
        env={**os.environ, "CFLAGS": "-O1 -fwrapv", "PYTHONPATH": str(folder.parents[2])},
    )
    checked = load_module("_rows", next(tmp_path.glob("_rows*.so")))
    guards = []

    def guarded_model():
        # Slots, weights and the like are reached by pointers, which no build checks.
        arrays = {}
        for field in dataclasses.fields(model.Model):
            array = getattr(new_model(), field.name)
            guards.append(np.full(array.size + 64, 123, array.dtype))
            arrays[field.name] = guards[-1][32:-32]
            arrays[field.name][:] = array
        return model.Model(**arrays)

    new_model = model.Model.new
    monkeypatch.setattr(model.Model, "new", guarded_model)
    rng = np.random.default_rng(8)
    for n_entries in ALPHABETS[1:]:
        for zero in {0, n_entries // 2, n_entries - 1}:
            tensors = [
                draw_tensor(rng, shape, n_entries, zero, scale)
                for shape in [(), (7,), (40, 30), (5, 40, 6, 7), (3, 2, 3, 4, 5)]
                for scale in (0.2, n_entries / 4)
            ]
            shift = int(rng.integers(5))
            data = adaptive.encode(tensors, n_entries, zero, shift=shift)
            paths = [draw_path(rng, (9, 4, 3), n_entries, zero, 8, n_entries / 5)], n_entries, zero
            along = adaptive.encode(*paths, [8])
            with monkeypatch.context() as patch:
                patch.setattr(walk, "_rows", checked)
                assert assert_round_trip(tensors, n_entries, zero, shift) == data
                assert adaptive.encode(*paths, [8]) == along
                for altered in hostile_streams(rng, data, 30):
                    try:
                        adaptive.decode(altered, shapes_of(tensors), n_entries, zero, shift=shift)
                    except CorruptContainerError:
                        continue
    assert len(guards) > 1000
    assert all((guard[:32] == 123).all() and (guard[-32:] == 123).all() for guard in guards)


# --- real networks --------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    "network, peer_bytes",
    [("resnet20-cifar10-jpeg", 51_601), ("lenet300", 45_037), ("lenet5", 92_289)],
)
def test_nearest_bins_take_less_than_the_peer_measured_and_than_order_0(
    network, peer_bytes, real_data
):
    # Bins of 1.3 standard deviations. peer_bytes: NNCodec 2.1.3 on the same integers, lossless,
    # its stream with its headers (tensors named t0, t1, ...).
    state = load_file(real_data / "models" / f"{network}.safetensors")
    weights = [w for w in state.values() if w.ndim > 1]
    step = 1.3 * np.concatenate([w.ravel() for w in weights]).std()
    centred = [np.rint(w / step).astype(np.int64) for w in weights]
    zero = -min(int(c.min()) for c in centred)
    n_entries = zero + max(int(c.max()) for c in centred) + 1
    tensors = [((c + zero).astype(index_dtype(n_entries)).ravel(), c.shape) for c in centred]
    data = assert_round_trip(tensors, n_entries, zero)
    assert len(data) < 0.96 * peer_bytes
    assert len(data) < 0.94 * order0_bytes(tensors)
