"""The merge pass: its arithmetic against recomputation, its order against a naive greedy loop."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.testing import assert_array_equal

from moeash.core.codebook import (
    Codebook,
    KeptTensor,
    SharedTensor,
    SharedWeights,
    TiedTensor,
)
from moeash.core.merge import MergePass, merge_runs, sse_rise
from moeash.errors import InputError


@st.composite
def codebooks(draw, max_size=12, min_count=0):
    """Entries and counts; some counts are zero, as after a method that leaves entries unused."""
    values = st.floats(-100, 100, width=32).map(lambda v: v + 0.0)
    entries = draw(st.lists(values, min_size=1, max_size=max_size, unique=True))
    count = st.one_of(st.integers(min_count, 3), st.integers(0 + min_count, 10**6))
    counts = draw(st.lists(count, min_size=len(entries), max_size=len(entries)))
    return np.sort(np.array(entries, np.float32)), np.array(counts, np.int64)


def runs_of(draw, m):
    ends = draw(st.sets(st.integers(1, m - 1))) if m > 1 else set()
    return tuple(np.diff([0, *sorted(ends), m]).tolist())


def example(rng=None, n_entries=5):
    """Two shared tensors on one codebook, a kept one between them and a tied one."""
    rng = rng or np.random.default_rng(0)
    entries = np.sort(rng.normal(size=n_entries)).astype(np.float32)
    shared = []
    for name, shape in (("a", (6, 7)), ("b", (50,))):
        indices = rng.integers(0, n_entries, np.prod(shape)).astype(np.uint8)
        counts = np.bincount(indices, minlength=n_entries)
        shared.append(SharedTensor(name, shape, "float32", 0, indices, counts))
    kept = KeptTensor("bias", (2,), "float32", np.array([1, 2], np.float32))
    tensors = (shared[0], kept, shared[1], TiedTensor("c", "a"))
    return SharedWeights((Codebook(entries),), tensors)


def global_counts(shared):
    return sum(t.counts for t in shared.shared)


def greedy(entries, counts, accepts):
    """The serial pass, written again without any of its parts: lists and one sort per step."""
    groups = [[i] for i in range(len(entries))]
    refused, trials = set(), []

    def mean(g):
        n = counts[g].astype(float)
        values = entries[g].astype(np.float64)
        return float(np.float32(np.average(values, weights=n if n.sum() else None)))

    def rise(p):
        a, b = groups[p], groups[p + 1]
        n_a, n_b = float(counts[a].sum()), float(counts[b].sum())
        return n_a * n_b / (n_a + n_b) * (mean(a) - mean(b)) ** 2 if n_a + n_b else 0.0

    while True:
        pairs = [
            p
            for p in range(len(groups) - 1)
            if (tuple(groups[p]), tuple(groups[p + 1])) not in refused
        ]
        if not pairs:
            return trials, tuple(map(len, groups))
        best = min(pairs, key=lambda p: (rise(p), p))
        trial = [*groups[:best], groups[best] + groups[best + 1], *groups[best + 2 :]]
        trials.append(tuple(map(len, trial)))
        if accepts(trials[-1]):
            groups = trial
        else:
            refused.add((tuple(groups[best]), tuple(groups[best + 1])))


def drive(merging, accepts):
    """Run a pass to its end and return its trials."""
    trials = []
    while not merging.done:
        (trial,) = merging.proposals()
        trials.append(trial)
        (merging.accept if accepts(trial) else merging.reject)(trial)
    return trials


def moody(seed):
    """An oracle that knows the trial only, so that any order of asking gets the same answers."""
    return lambda runs: hash((seed, runs)) % 3 == 0


@given(codebooks(), st.integers(0, 10**6))
@settings(deadline=None)
def test_the_pass_tries_what_a_naive_greedy_loop_tries(codebook, seed):
    merging = MergePass(*codebook)
    trials = drive(merging, moody(seed))
    assert (trials, merging.runs) == greedy(*codebook, moody(seed))


@given(codebooks(), st.integers(1, 5), st.integers(0, 10**6))
@settings(deadline=None)
def test_speculating_ahead_gives_the_accepted_sequence_of_the_serial_pass(codebook, n, seed):
    serial = MergePass(*codebook)
    expected = drive(serial, moody(seed))
    parallel = MergePass(*codebook)
    trials = []
    while ahead := parallel.proposals(n):
        assert len(set(ahead)) == len(ahead) <= n
        for trial in ahead:
            trials.append(trial)
            if moody(seed)(trial):
                parallel.accept(trial)
                break
            parallel.reject(trial)
    assert (trials, parallel.runs) == (expected, serial.runs)


@given(codebooks())
@settings(deadline=None)
def test_accepting_everything_ends_at_one_entry_and_refusing_everything_changes_nothing(codebook):
    m = codebook[0].size
    merging = MergePass(*codebook)
    assert [len(t) for t in drive(merging, lambda _: True)] == list(range(m - 1, 0, -1))
    assert merging.runs == (m,)
    merging = MergePass(*codebook)
    assert len(drive(merging, lambda _: False)) == m - 1
    assert merging.runs == (1,) * m


def test_a_refused_pair_is_tried_again_once_one_of_its_entries_has_changed():
    merging = MergePass(np.float32([0, 1, 3, 30]), np.array([1, 1, 1, 1]))
    merging.reject((2, 1, 1))
    assert merging.proposals(9) == [(1, 2, 1), (1, 1, 2)]
    merging.accept((1, 2, 1))
    assert merging.proposals(9) == [(3, 1), (1, 3)]  # entry 0 beside the new entry: open again
    merging.reject((3, 1))
    assert merging.proposals(9) == [(1, 3)]


def test_ties_go_to_the_lower_pair():
    merging = MergePass(np.float32([0, 1, 2, 3]), np.array([5, 5, 5, 5]))
    assert merging.proposals(3) == [(2, 1, 1), (1, 2, 1), (1, 1, 2)]


def test_entries_without_weights_merge_first_because_they_cost_nothing():
    merging = MergePass(np.float32([0, 1, 50, 51]), np.array([9, 9, 0, 9]))
    assert merging.proposals(2) == [(1, 2, 1), (1, 1, 2)]


@given(codebooks(min_count=1), st.data())
@settings(deadline=None)
def test_the_rise_formula_is_the_recomputed_squared_error(codebook, data):
    entries, counts = (a.astype(np.float64) for a in codebook)
    if entries.size < 2:
        return
    p = data.draw(st.integers(0, entries.size - 2))
    pair, n = entries[p : p + 2], counts[p : p + 2]
    mean = (n * pair).sum() / n.sum()
    recomputed = (n * (pair - mean) ** 2).sum()
    rise = sse_rise(n[:1], pair[:1], n[1:], pair[1:])
    np.testing.assert_allclose(rise, recomputed, rtol=1e-6, atol=1e-12 * (n * pair**2).sum())


@given(st.data(), st.integers(1, 40))
@settings(deadline=None)
def test_merged_weights_hold_the_same_weights_in_fewer_entries(data, m):
    shared = example(np.random.default_rng(data.draw(st.integers(0, 99))), m)
    runs = runs_of(data.draw, m)
    merged = merge_runs(shared, runs)
    assert len(merged.codebooks[0]) == len(runs)
    group = np.repeat(np.arange(len(runs)), runs)
    before, after = shared.codebooks[0].entries, merged.codebooks[0].entries
    for old, new in zip(shared.shared, merged.shared, strict=True):
        assert_array_equal(new.indices, group[old.indices])
        assert_array_equal(new.counts, np.bincount(new.indices, minlength=len(runs)))
    n_old, n_new = global_counts(shared), global_counts(merged)
    assert n_old.sum() == n_new.sum()
    first_moment = (n_new * after.astype(np.float64)).sum()
    scale = 1e-6 * (n_old * np.abs(before)).sum()
    assert first_moment == pytest.approx((n_old * before.astype(np.float64)).sum(), abs=scale)
    assert merged.kept == shared.kept and merged.tensors[3] == shared.tensors[3]


@given(codebooks(), st.data())
@settings(deadline=None)
def test_no_mean_leaves_its_run_and_a_run_of_one_keeps_its_entry(codebook, data):
    entries, counts = codebook
    indices = np.repeat(np.arange(entries.size), np.minimum(counts, 50)).astype(np.uint8)
    counts = np.bincount(indices, minlength=entries.size)
    tensor = SharedTensor("a", indices.shape, "float32", 0, indices, counts)
    runs = runs_of(data.draw, entries.size)
    merged = merge_runs(SharedWeights((Codebook(entries),), (tensor,)), runs)
    ends = np.cumsum([0, *runs])
    for entry, start, stop in zip(merged.codebooks[0].entries, ends[:-1], ends[1:], strict=True):
        assert entries[start] <= entry <= entries[stop - 1]


def test_entries_one_float32_apart_stay_strictly_increasing():
    """Means of neighbours that float32 can just tell apart must not round onto one another."""
    entries = [np.float32(1)]
    for _ in range(7):
        entries.append(np.nextafter(entries[-1], np.float32(2)))
    indices = np.repeat(np.arange(8), [1, 9, 9, 1, 1, 9, 9, 1]).astype(np.uint8)
    tensor = SharedTensor("a", (40,), "float32", 0, indices, np.bincount(indices))
    shared = SharedWeights((Codebook(np.array(entries)),), (tensor,))
    for runs in ((2, 2, 2, 2), (1, 2, 2, 2, 1), (3, 5), (1,) * 8):
        after = merge_runs(shared, runs).codebooks[0].entries
        assert (np.diff(after) > 0).all() and after.size == len(runs)


def test_merging_nothing_gives_the_same_fingerprint():
    shared = example()
    assert merge_runs(shared, [1] * 5).fingerprint() == shared.fingerprint()
    assert merge_runs(shared, [2, 1, 1, 1]).fingerprint() != shared.fingerprint()


def test_a_merged_codebook_narrows_its_indices():
    entries = np.arange(300, dtype=np.float32)
    indices = np.arange(300, dtype=np.uint16)
    tensor = SharedTensor("a", (300,), "float32", 0, indices, np.ones(300, np.int64))
    shared = SharedWeights((Codebook(entries),), (tensor,))
    assert merge_runs(shared, [2] * 150).shared[0].indices.dtype == np.uint8
    assert merge_runs(shared, [2] * 20 + [1] * 260).shared[0].indices.dtype == np.uint16


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "whole numbers"),
        ([2, 2], "sum to 4, needed 5"),
        ([5, 0], "each at least 1"),
        ([6, -1], "each at least 1"),
        ([2.5, 2.5], "whole numbers"),
        ([[5]], "flat list"),
    ],
)
def test_runs_that_do_not_cover_the_codebook_are_refused(runs, message):
    with pytest.raises(InputError, match=message):
        merge_runs(example(), runs)


def test_several_codebooks_cannot_be_merged():
    shared = example()
    with pytest.raises(InputError, match="got 2 codebooks"):
        merge_runs(SharedWeights(shared.codebooks * 2, shared.tensors), [5])


@pytest.mark.parametrize(
    "runs", [(1, 1, 1, 1), (2, 2), (1, 1, 1), (5,), (), (1, 1, 1, 1, 1), (3, 1)]
)
def test_what_is_not_a_trial_of_the_current_runs_is_refused(runs):
    merging = MergePass(np.float32([0, 1, 2, 3]), np.ones(4, np.int64))
    for answer in (merging.accept, merging.reject):
        with pytest.raises(InputError, match="does not merge one pair of the current 4"):
            answer(runs)
    assert merging.runs == (1, 1, 1, 1) and len(merging.proposals(9)) == 3


@pytest.mark.parametrize(
    ("counts", "message"), [([1, 2], r"counts of shape \(2,\)"), ([1, 2, -1], "minimum -1")]
)
def test_a_pass_over_something_else_is_refused(counts, message):
    with pytest.raises(InputError, match=message):
        MergePass(np.float32([0, 1, 2]), np.array(counts))
