"""Output that goes nowhere: closed by who starts the command, or by who reads it."""

import os
import subprocess
import sys

import pytest

from tests.marks import slow

COMMAND = f"{sys.executable} -m moeash.cli.main"


def in_shell(tmp_path, line):
    return subprocess.run(
        ["sh", "-c", line],
        cwd=tmp_path,
        env={**os.environ, "MOEASH_STORAGE": str(tmp_path / "a.db")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def stored(tmp_path):
    from moeash.study.opening import open_storage

    open_storage(str(tmp_path / "a.db")).close()
    return tmp_path


@pytest.mark.parametrize("closed", [slow(">&-"), slow(">&- 2>&-"), ">&- 2>&- <&-"])
@pytest.mark.parametrize("command", [slow("list"), "list --json", slow("--version")])
def test_a_command_whose_output_is_closed_works_without_it(stored, command, closed):
    before = (stored / "a.db").read_bytes()
    said = in_shell(stored, f"{COMMAND} {command} {closed}")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert (stored / "a.db").read_bytes() == before


def test_a_reader_that_leaves_is_no_error_worth_a_word(stored):
    said = in_shell(stored, f"{COMMAND} spec | head -0")
    assert (said.returncode, said.stderr) == (0, "")
