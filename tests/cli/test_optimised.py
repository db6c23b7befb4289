"""The program under ``python -OO``: no assertion and no docstring is part of what it does."""

import os
import subprocess
import sys

import pytest

ONE_GENERATION = [
    *("--set", "budget.generations=1"),
    *("--set", "search.population=4"),
    *("--set", "merge.trials=0"),
]


def answer(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "moeash", *map(str, arguments)],
        env={**os.environ, "PYTHONOPTIMIZE": "2"},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow(seconds=25)
def test_a_study_runs_and_its_files_are_exported_shown_and_checked_without_assertions(
    bare, tmp_path
):
    assert sys.flags.optimize == 0  # the commands below differ from this process
    ran = answer(tmp_path, "run", bare, *ONE_GENERATION)
    assert ran.returncode == 0, ran.stderr
    for arguments, said in [
        (("list",), "finished"),
        (("export", "tiny", "--to", "a.moeash"), "decoded and compared bit for bit"),
        (("inspect", "a.moeash"), "bn1.weight"),
        (("verify", "a.moeash"), "intact"),
    ]:
        got = answer(tmp_path, *arguments)
        assert got.returncode == 0 and said in got.stdout, (arguments, got.stdout, got.stderr)
    damaged = bytearray((tmp_path / "a.moeash").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "b.moeash").write_bytes(damaged)
    refused = answer(tmp_path, "verify", "b.moeash")
    assert refused.returncode != 0 and refused.stderr.count("\n") == 1
