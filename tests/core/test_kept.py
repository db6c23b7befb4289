"""How kept tensors are stored: precision, steps, and BatchNorms as two vectors."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moeash.core.codebook import KeptTensor, SharedWeights, TiedTensor
from moeash.core.kept import (
    EXPONENTS,
    Keeping,
    Norm,
    fits_float16,
    in_steps,
    narrowed,
    unit_variance,
)
from moeash.errors import InputError

NORM = Norm("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", 1e-5)


def tensor(values, name="b", dtype="float32"):
    array = np.asarray(values, np.float32 if dtype == "bfloat16" else dtype)
    return KeptTensor(name, array.shape, dtype, array)


def norm_tensors(weight, bias, mean, variance, dtype="float32"):
    names = (NORM.weight, NORM.bias, NORM.mean, NORM.variance)
    vectors = (weight, bias, mean, variance)
    return {n: tensor(v, n, dtype) for n, v in zip(names, vectors, strict=True)}


def forward(tensors, x, eps=NORM.eps):
    """A BatchNorm in eval mode, in float64."""
    weight, bias, mean, variance = (
        tensors[name].decoded().astype(np.float64)
        for name in (NORM.weight, NORM.bias, NORM.mean, NORM.variance)
    )
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


@pytest.mark.parametrize(
    ("dtype", "values", "stored"),
    [
        ("float32", [1, 0.5, 0], np.float16),
        ("float32", [1, 70_000], np.float32),
        ("float32", [1, 1e-7], np.float32),
        ("float32", [1, np.nan], np.float32),
        ("float32", [], np.float16),
        ("float32", 0.5, np.float16),
        ("bfloat16", [1, 0.5], np.float16),
        ("float16", [1, 6e-8], np.float16),
        ("float64", [1, 0.5], np.float64),
        ("int64", [1, 2], np.int64),
    ],
)
def test_kept_values_are_stored_as_float16_only_where_that_is_harmless(dtype, values, stored):
    kept = tensor(values, dtype=dtype)
    assert narrowed(kept, "float16").values.dtype == stored
    assert narrowed(kept, "float16").shape == kept.shape
    assert narrowed(kept, "float32") is kept


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=20))
def test_what_fits_float16_keeps_eleven_bits(values):
    array = np.array(values, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        error = np.abs(array.astype(np.float16).astype(np.float64) - array)
    if fits_float16(array):
        assert (error <= 2.0**-11 * np.abs(array)).all()


def test_rounding_to_steps_takes_half_to_even():
    stepped = in_steps(tensor([0.5, 1.5, 2.5, -0.5, -1.5, 3.49]), 0)
    assert stepped.values.tolist() == [0, 2, 2, 0, -2, 3]
    stepped = in_steps(tensor([0.125, 0.375]), -2)
    assert (stepped.values.tolist(), stepped.exponent) == ([0, 2], -2)


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=20),
    st.integers(EXPONENTS[0], EXPONENTS[-1]),
)
def test_a_tensor_in_steps_is_off_by_half_a_step_at_most_and_rounds_to_itself(values, exponent):
    kept = tensor(values)
    stepped = in_steps(kept, exponent)
    if stepped is None:
        assert np.abs(kept.values).max() >= 2.0**exponent * 32_767
        return
    decoded = stepped.decoded()
    error = np.abs(decoded.astype(np.float64) - kept.values)
    assert (error <= 2.0**exponent / 2).all()
    again = in_steps(replace(kept, values=decoded), exponent)
    assert np.array_equal(again.values, stepped.values)
    assert again.values.dtype == stepped.values.dtype


@pytest.mark.parametrize(
    ("most", "stored"), [(127, np.int8), (128, np.int16), (32_767, np.int16), (32_768, None)]
)
def test_integers_take_eight_bits_where_they_fit(most, stored):
    stepped = in_steps(tensor([most, -most]), 0)
    assert (stepped if stepped is None else stepped.values.dtype) == stored


@pytest.mark.parametrize(
    "kept",
    [
        tensor([np.nan, 1]),
        tensor([np.inf, 1]),
        tensor([1, 2], dtype="float16"),
        tensor([1, 2], dtype="float64"),
        tensor([1, 2], dtype="int64"),
    ],
)
def test_what_cannot_be_stored_in_steps_is_stored_as_without(kept):
    assert in_steps(kept, -3) is None
    keeping = Keeping("float16", exponents={"b": -3})
    (stored,) = keeping.stored({"b": kept}).values()
    assert stored.exponent == 0
    assert np.array_equal(stored.values, kept.values, equal_nan=kept.dtype != "int64")


@pytest.mark.parametrize("exponent", [EXPONENTS[0] - 1, EXPONENTS[-1] + 1])
def test_steps_that_float32_cannot_count_are_refused(exponent):
    with pytest.raises(InputError, match="exponents go from -126 to 100"):
        in_steps(tensor([1.0]), exponent)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(eps=st.floats(0, 1))
def test_the_square_root_of_the_unit_variance_and_eps_is_exactly_one(dtype, eps):
    variance = unit_variance(eps, np.dtype(dtype))
    assert variance is not None
    assert np.sqrt(variance + dtype(eps)) == dtype(1)
    assert dtype(np.sqrt(np.float64(variance) + eps)) == dtype(1)


def test_no_variance_makes_up_for_an_eps_above_one():
    assert unit_variance(1.5, np.dtype(np.float32)) is None
    tensors = norm_tensors([1, 2], [0, 1], [3, 4], [1, 2])
    keeping = Keeping("float32", (replace(NORM, eps=1.5),))
    assert {n: t.values.tolist() for n, t in keeping.stored(tensors).items()} == {
        n: t.values.tolist() for n, t in tensors.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_vectors_are_the_same_function(dtype):
    rng = np.random.default_rng(0)
    n = 50
    variance = rng.uniform(0, 4, n)
    variance[:2] = 0  # dead channels
    weight = rng.normal(size=n)
    weight[2] = 0
    tensors = norm_tensors(weight, rng.normal(size=n), rng.normal(size=n), variance, dtype)
    stored = Keeping("float32", (NORM,)).stored(tensors)
    x = rng.normal(size=(20, n)) * np.sqrt(variance)
    assert np.abs(forward(stored, x) - forward(tensors, x)).max() < 1e-5
    assert not stored[NORM.mean].values.any()
    assert len(set(stored[NORM.variance].values.tolist())) == 1
    assert {t.values.dtype for t in stored.values()} == {np.dtype(dtype)}


def test_constants_of_two_vectors_are_not_narrowed():
    tensors = norm_tensors([1, 2], [0, 1], [3, 4], [1, 2])
    stored = Keeping("float16", (NORM,)).stored(tensors)
    assert stored[NORM.variance].values.dtype == np.float32
    assert stored[NORM.weight].values.dtype == np.float16
    again = Keeping("float16", (NORM,)).stored(
        {n: replace(t, values=t.values.astype(np.float32)) for n, t in stored.items()}
    )
    assert {n: t.values.tolist() for n, t in again.items()} == {
        n: t.values.tolist() for n, t in stored.items()
    }


@pytest.mark.parametrize(
    "spoilt",
    [
        norm_tensors([1, 2], [0, 1], [3, 4], [-1, 2]),
        norm_tensors([1, 2], [0, 1], [3, 4], [np.nan, 2]),
        norm_tensors([1, np.inf], [0, 1], [3, 4], [1, 2]),
        norm_tensors([1, 3e38], [0, 1], [3, 4], [1, 0]),
    ],
    ids=["negative variance", "no number", "infinite weight", "overflow"],
)
def test_a_norm_that_two_vectors_cannot_hold_stays_as_it_is(spoilt):
    stored = Keeping("float32", (NORM,)).stored(spoilt)
    assert all(stored[name] is spoilt[name] for name in spoilt)


def test_the_shift_makes_up_for_the_rounded_scale_at_the_mean():
    tensors = norm_tensors([1, 1], [0.5, -0.5], [40, -40], [1, 4])
    stored = Keeping("float32", (NORM,), {NORM.weight: -2}).stored(tensors)
    assert stored[NORM.weight].decoded().tolist() == [1.0, 0.5]
    mean = np.array([40.0, -40.0])
    assert np.allclose(forward(stored, mean), forward(tensors, mean), atol=1e-4)
    far = mean + 100 * np.sqrt([1, 4])
    coarse = Keeping("float32", (NORM,), {NORM.weight: 0}).stored(tensors)
    assert np.abs(forward(coarse, far) - forward(tensors, far)).max() > 1


def test_shared_and_tied_tensors_pass_untouched_in_their_order():
    kept = norm_tensors([1, 2], [0, 1], [3, 4], [1, 2])
    counted = tensor(7, "bn.num_batches_tracked", "int64")
    tensors = (*kept.values(), counted, TiedTensor("twin", NORM.weight))
    shared = SharedWeights((), tensors)
    stored = Keeping("float16", (NORM,), {NORM.bias: -7}).apply(shared)
    assert [t.name for t in stored.tensors] == [t.name for t in tensors]
    assert stored.tensors[4] is counted and stored.tensors[5] is tensors[5]
    assert stored.tensors[1].exponent == -7


def test_a_keeping_survives_json():
    keeping = Keeping("float16", (NORM,), {"bn.bias": -7})
    assert Keeping.from_dict(json.loads(json.dumps(keeping.as_dict()))) == keeping
