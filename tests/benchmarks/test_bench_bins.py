"""Time of binning, as ratios to copying or to NumPy, measured side by side in one run.

Run with ``pytest tests/benchmarks/test_bench_bins.py -s``.
"""

import time

import numpy as np
import pytest

from moeash.core.bins import Grid, assign_bins
from moeash.core.statistics import BinStatistics, uniform_codebook

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

N_WEIGHTS = 25_000_000


def interleaved(calls, rounds):
    """Return the least seconds of each call, taken in turns so that all see the same machine."""
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


@pytest.fixture(scope="module", params=["normal", "heavy tails"])
def weights(request):
    rng = np.random.default_rng(0)
    drawn = rng.standard_normal(N_WEIGHTS, dtype=np.float32)
    if request.param == "heavy tails":  # a trained network: the range is 200 standard deviations
        drawn[:2] = -100, 100
    return drawn


@pytest.mark.parametrize("k", [64, 1024])
def test_one_pass_over_the_weights(weights, k, request):
    grid = Grid.spanning(weights.min(), weights.max(), k)
    copy = np.empty_like(weights)
    lookup = np.arange(grid.n_bins).astype(np.uint32)
    seconds = interleaved(
        {
            "np.copyto": lambda: np.copyto(copy, weights),
            "assign_bins": lambda: assign_bins(weights, grid),
            "assign_bins, lookup": lambda: assign_bins(weights, grid, lookup=lookup),
        },
        rounds=7,
    )
    edges = grid.origin + grid.step * np.arange(1, grid.n_bins)
    tenth = weights[::10].copy()
    seconds["np.digitize"] = 10 * interleaved({"": lambda: np.digitize(tenth, edges)}, 1)[""]
    print(f"\n{request.node.name}: {N_WEIGHTS:,} float32, one thread")
    for name, s in seconds.items():
        print(f"  {name:24s} {s * 1e3:8.1f} ms  {s / seconds['np.copyto']:7.2f} x copyto")
    print(f"  np.digitize / assign_bins: {seconds['np.digitize'] / seconds['assign_bins']:.0f}")


@pytest.mark.parametrize("k", [64, 1024])
def test_one_candidate_from_sorted_weights(k):
    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal(13_500, dtype=np.float32) for _ in range(20)]
    statistics = BinStatistics.from_tensors(tensors)
    grid = Grid.spanning(statistics.low, statistics.high, k)
    everything = np.concatenate(tensors)
    seconds = interleaved(
        {
            "assign_bins": lambda: assign_bins(everything, grid),
            "uniform_codebook": lambda: uniform_codebook(statistics, grid),
            "counts": lambda: statistics.counts(grid),
        },
        rounds=30,
    )
    print(f"\n20 tensors of 13,500 weights, k={k}")
    for name, s in seconds.items():
        print(f"  {name:24s} {s * 1e6:8.0f} us  {s / seconds['assign_bins']:7.2f} x assign_bins")
    assert uniform_codebook(statistics, grid).counts.sum() == everything.size
