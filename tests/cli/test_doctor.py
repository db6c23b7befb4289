import sys
from pathlib import Path

import pytest

from moeash.cli.doctor import KERNELS


def test_a_healthy_installation_passes_every_check(moeash, tiny):
    answer = moeash("doctor", "--storage", tiny.storage, "--json")
    assert answer.code == 0 and answer.json["ok"]
    details = {check["check"]: check["detail"] for check in answer.json["checks"]}
    assert details["storage"].endswith(": 1 study")
    assert "equal to their definition" in details["kernels"]
    assert details["entropy coder"] == "round trip exact: ans, huffman, adaptive"


def test_every_kernel_there_is_is_looked_for():
    package = Path(__file__).parents[2] / "moeash"
    found = {path.relative_to(package).with_suffix("") for path in package.rglob("*.pyx")}
    assert set(KERNELS) == {".".join(("moeash", *path.parts)) for path in found}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_that_is_not_compiled_is_named(moeash, tiny, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    answer = moeash("doctor", "--storage", tiny.storage)
    assert answer.code == 1
    (line,) = (line for line in answer.out.splitlines() if "kernels: " in line)
    assert line.startswith(f"FAIL  kernels: RuntimeError: {name} is not compiled")
    assert "pip install -e ." in line


def test_a_database_that_is_none_fails_the_check(moeash, tiny):
    answer = moeash("doctor", "--storage", tiny.spec)
    assert answer.code == 1
    assert "FAIL  storage: StorageError" in answer.out and "not a database" in answer.out


def test_a_warning_is_told_and_is_no_failure(moeash, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    answer = moeash("doctor", "--storage", tiny.storage)
    assert answer.code == 0
    (line,) = (line for line in answer.out.splitlines() if "RAY_ADDRESS" in line)
    assert line.startswith("warn  ray: ")
