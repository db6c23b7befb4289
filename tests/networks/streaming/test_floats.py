import numpy as np
import torch

from moeash.networks.streaming.floats import all_values, as_floats, from_patterns, to_patterns

PATTERNS = np.arange(1 << 16, dtype=np.uint16)


def test_patterns_are_the_values_torch_has_for_them():
    ours = from_patterns(PATTERNS)
    theirs = torch.from_numpy(PATTERNS.view(np.int16)).view(torch.bfloat16).float().numpy()
    assert ours.tobytes() == theirs.tobytes() == all_values("bfloat16").tobytes()
    half = torch.from_numpy(PATTERNS.view(np.int16)).view(torch.float16).float().numpy()
    np.testing.assert_array_equal(all_values("float16"), half)


def test_values_go_to_the_pattern_they_came_from_nan_included():
    np.testing.assert_array_equal(to_patterns(from_patterns(PATTERNS)), PATTERNS)


def test_values_between_go_where_torch_has_them_go():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint32)
    bits[:4096] = (bits[:4096] & 0xFFFF0000) | 0x8000  # halfway
    values = bits.view(np.float32)
    theirs = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)
    finite = ~np.isnan(values)
    ours = to_patterns(values)
    np.testing.assert_array_equal(ours[finite], theirs[finite])
    assert np.isnan(from_patterns(ours[~finite])).all()


def test_a_nan_of_low_digits_stays_one():
    assert np.isnan(from_patterns(to_patterns(np.array([0x7F800001], np.uint32).view("f4"))))


def test_floats_are_what_methods_take():
    for dtype, wanted in (("float16", "f4"), ("float32", "f4"), ("float64", "f8")):
        raw = np.array([0.5, -3], dtype)
        assert as_floats(raw, dtype).dtype == wanted
        assert as_floats(raw, dtype).tolist() == [0.5, -3]
    assert as_floats(np.array([0xBF80], np.uint16), "bfloat16").tolist() == [-1.0]
