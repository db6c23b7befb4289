"""Codebooks, shared weights and the entropy of their indices."""

from dataclasses import replace

import numpy as np
import pytest

from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    Parameter,
    SharedTensor,
    SharedWeights,
    TiedTensor,
    float32_bytes,
    index_dtype,
    keep,
    keep_all,
    share,
)
from moeash.errors import InputError


def example(**changes):
    """A shared 2x3 matrix, a kept bias, a tied name and an integer buffer."""
    indices = np.array([0, 2, 2, 1, 0, 2], np.uint8)
    shared = SharedTensor("w", (2, 3), "float32", 0, indices, np.array([2, 1, 3]))
    tensors = (
        replace(shared, **changes),
        KeptTensor("b", (2,), "float32", np.array([1.5, -2], np.float32)),
        TiedTensor("head", "w"),
        KeptTensor("steps", (), "int64", np.array(7)),
    )
    return SharedWeights((Codebook(np.array([-1, 0, 0.5])),), tensors)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], r"shape \(0,\)"),
        ([[1.0]], r"shape \(1, 1\)"),
        ([0, np.nan], "NaN or infinite"),
        ([0, np.inf], "NaN or infinite"),
        ([1, 1], "strictly increasing"),
        ([1, 0], "strictly increasing"),
        ([1, 1 + 1e-12], "strictly increasing"),
    ],
)
def test_a_codebook_that_is_not_sorted_finite_and_flat_is_refused(entries, message):
    with pytest.raises(InputError, match=message):
        Codebook(np.array(entries, np.float64))


def test_a_codebook_does_not_follow_the_array_it_came_from():
    entries = np.array([1, 2], np.float32)
    codebook = Codebook(entries)
    entries[0] = 9
    assert codebook.entries.tolist() == [1, 2] and len(codebook) == 2
    with pytest.raises(ValueError, match="read-only"):
        codebook.entries[0] = 9


@pytest.mark.parametrize(
    ("n", "dtype"), [(1, "u1"), (256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "u4")]
)
def test_index_dtype_is_the_narrowest_that_fits(n, dtype):
    assert index_dtype(n) == np.dtype(dtype)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook": 1}, "uses codebook 1 of 1"),
        ({"codebook": -1}, "uses codebook -1 of 1"),
        ({"counts": np.array([2, 4])}, r"counts of shape \(2,\), needed \(3,\)"),
        ({"counts": np.array([2, 1, 4])}, "sum to 7, needed 6"),
    ],
)
def test_a_shared_tensor_that_does_not_fit_its_codebook_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        example(**changes)


def test_names_are_unique_and_ties_point_back():
    shared = example()
    with pytest.raises(InputError, match="holds 'w' twice"):
        SharedWeights(shared.codebooks, (*shared.tensors, TiedTensor("w", "b")))
    with pytest.raises(InputError, match="tied to 'later', which must come before"):
        SharedWeights(shared.codebooks, (TiedTensor("x", "later"), *shared.tensors))


def test_decoding_gives_entries_in_shape_dtype_and_order_and_ties_share_memory():
    decoded = example().decoded()
    assert list(decoded) == ["w", "b", "head", "steps"]
    assert decoded["w"].tolist() == [[-1, 0.5, 0.5], [0, -1, 0.5]]
    assert decoded["w"].dtype == np.float32 and decoded["head"] is decoded["w"]
    assert decoded["b"].dtype == np.float32 and decoded["b"].tolist() == [1.5, -2]
    assert decoded["steps"] == 7 and decoded["steps"].dtype == np.int64
    half = example(dtype="float16").decoded()["w"]
    assert half.dtype == np.float16 and half[0, 1] == 0.5


def test_sizes_count_tied_tensors_once_and_floats_as_four_bytes():
    shared = example()
    assert (shared.n_shared, shared.n_kept, shared.n_entries) == (6, 3, 3)
    assert shared.original_bytes == 6 * 4 + 2 * 4 + 8
    assert [t.name for t in shared.shared] == ["w"]
    assert [t.name for t in shared.kept] == ["b", "steps"]
    assert float32_bytes("bfloat16", 3) == float32_bytes("float64", 3) == 12
    assert float32_bytes("uint8", 3) == 3


def test_the_fingerprint_follows_what_is_stored_and_nothing_else():
    shared = example()
    wide = example(indices=shared.shared[0].indices.astype(np.uint32))
    assert wide.fingerprint() == example().fingerprint()
    w, b, head, steps = shared.tensors
    others = [
        example(indices=np.array([2, 0, 2, 1, 0, 2], np.uint8)),
        example(shape=(3, 2)),
        example(dtype="float16"),
        SharedWeights((Codebook(np.array([-1, 0, 0.25])),), shared.tensors),
        SharedWeights(shared.codebooks, (w, b, head)),
        SharedWeights(shared.codebooks, (w, head, b, steps)),
        SharedWeights(shared.codebooks, (w, b, TiedTensor("head", "b"), steps)),
        SharedWeights(shared.codebooks, (w, replace(b, name="c"), head, steps)),
        SharedWeights(shared.codebooks, (w, replace(b, values=b.values * 2), head, steps)),
    ]
    assert len({s.fingerprint() for s in [shared, *others]}) == 1 + len(others)


def test_a_tensor_without_weights_can_be_shared():
    none = SharedTensor("w", (0, 3), "float32", 0, np.empty(0, np.uint8), np.zeros(1, np.int64))
    shared = SharedWeights((Codebook(np.zeros(1)),), (none,))
    assert shared.decoded()["w"].shape == (0, 3)
    assert len(shared.fingerprint()) == 32


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float16", "float16"), ("int64", "int64")],
)
def test_a_kept_parameter_comes_in_the_precision_of_the_network(dtype, kept):
    values = np.array([1, 2], "float32" if dtype == "bfloat16" else dtype)
    tensor = keep(Parameter("p", (2,), dtype, "kept", values))
    assert (tensor.dtype, tensor.values.dtype) == (dtype, np.dtype(kept))
    assert np.array_equal(tensor.values, values)


@pytest.mark.parametrize("shape", [(3,), (), (0,)])
def test_integers_of_a_float_tensor_count_its_steps(shape):
    counts = np.full(shape, -3, np.int8)
    tensor = KeptTensor("b", shape, "float32", counts, exponent=-2)
    assert tensor.decoded().dtype == np.float32 and tensor.decoded().shape == shape
    assert (tensor.decoded() == np.float32(-0.75)).all()
    plain, other = (replace(tensor, exponent=exponent) for exponent in (0, -3))
    prints = {SharedWeights((), (one,)).fingerprint() for one in (tensor, plain, other)}
    assert len(prints) == 3


def test_only_the_target_of_a_tie_can_be_kept():
    with pytest.raises(InputError, match="'p' is tied"):
        keep(Parameter("p", (1,), "float32", "tied", None, "q"))


def test_share_assembles_the_state_in_its_order():
    expected = example()
    w = expected.shared[0]
    state = (
        Parameter("w", (2, 3), "float32", "shared", np.zeros((2, 3), np.float32)),
        Parameter("b", (2,), "float32", "kept", np.array([1.5, -2], np.float32)),
        Parameter("head", (2, 3), "float32", "tied", None, "w"),
        Parameter("steps", (), "int64", "kept", np.array(7)),
    )
    assigned = {"w": (0, w.indices, w.counts)}
    got = share(state, expected.codebooks, assigned, keep_all(state))
    assert got.fingerprint() == expected.fingerprint()
    with pytest.raises(InputError, match="'w' was given no indices"):
        share(state, expected.codebooks, {}, keep_all(state))


def test_values_of_a_large_tensor_are_its_entries():
    n = 2 * (1 << 20) + 3
    indices = np.random.default_rng(0).integers(0, 300, n).astype(np.uint16)
    book = Codebook(np.linspace(-1, 1, 300))
    tensor = SharedTensor("w", (n,), "float64", 0, indices, np.bincount(indices, minlength=300))
    values = SharedWeights((book,), (tensor,)).values(tensor)
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, book.entries[indices])
