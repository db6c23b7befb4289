"""Time of what is asked of a study of 50,000 evaluations, beside an import of SQLAlchemy and NumPy.

Run with ``pytest tests/benchmarks/test_bench_studies.py -s``.
"""

import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

ROUNDS = 3


def test_list_status_and_front_of_a_long_study(database):
    moeash = ["-m", "moeash"]
    calls = {
        "import sqlalchemy, numpy": ["-c", "import sqlalchemy, numpy"],
        "moeash list": [*moeash, "list", "--storage", database],
        "moeash status": [*moeash, "status", "many", "--storage", database],
        "moeash front": [*moeash, "front", "many", "--storage", database],
    }
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that all see the same machine
        for name, arguments in calls.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            least[name] = min(least[name], time.perf_counter() - start)
    imports = least["import sqlalchemy, numpy"]
    print()
    for name, seconds in least.items():
        print(f"{name:26} {seconds:6.3f} s  {seconds / imports:6.1f} x")
