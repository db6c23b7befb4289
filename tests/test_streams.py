"""Output that goes nowhere: closed by who starts the command, or by who reads it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import slow

COMMAND = f"{sys.executable} -m moeash"


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


@pytest.mark.slow
@pytest.mark.parametrize("closed", [slow(">&-"), slow(">&- 2>&-"), ">&- 2>&- <&-"])
@pytest.mark.parametrize("command", [slow("list"), "list --json", slow("--version")])
def test_a_command_whose_output_is_closed_works_without_it(stored, command, closed):
    before = (stored / "a.db").read_bytes()
    said = in_shell(stored, f"{COMMAND} {command} {closed}")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert (stored / "a.db").read_bytes() == before


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict", slow("cp1252")])
def test_letters_that_a_terminal_has_not_are_written_out(tmp_path, encoding):
    from moeash.study.opening import open_storage

    open_storage(str(tmp_path / "文.db")).close()
    environment = f"PYTHONIOENCODING={encoding} MOEASH_STORAGE=文.db"
    said = in_shell(tmp_path, f"{environment} {COMMAND} list")
    assert (said.returncode, said.stderr) == (0, "")
    assert "\\u6587.db" in said.stdout


def test_a_reader_that_leaves_is_no_error_worth_a_word(stored):
    said = in_shell(stored, f"{COMMAND} spec | head -0")
    assert (said.returncode, said.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", ["spec", slow("list --json")])
def test_an_answer_there_is_no_room_for_is_told_in_one_line(stored, command):
    said = in_shell(stored, f"{COMMAND} {command} > /dev/full")
    assert said.returncode == 1
    assert said.stderr == (
        "moeash: cannot write all of it: what the answer is written to is full; make room, or "
        "write it elsewhere\n"
    )
