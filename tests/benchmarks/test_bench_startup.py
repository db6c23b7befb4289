"""Time until moeash answers, as ratios to an interpreter that does nothing, in one run.

Run with ``pytest tests/benchmarks/test_bench_startup.py -s``.
"""

import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

CALLS = {
    "python -c pass": ["-c", "pass"],
    "import numpy": ["-c", "import numpy"],
    "import moeash": ["-c", "import moeash"],
    "moeash --help": ["-m", "moeash", "--help"],
    "moeash --version": ["-m", "moeash", "--version"],
    "import torch": ["-c", "import torch"],
}
ROUNDS = 3


def test_startup_ratios():
    least = dict.fromkeys(CALLS, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that all see the same machine
        for name, arguments in CALLS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            least[name] = min(least[name], time.perf_counter() - start)
    nothing = least["python -c pass"]
    print()
    for name, seconds in least.items():
        print(f"{name:18} {seconds:6.3f} s  {seconds / nothing:6.1f} x")
