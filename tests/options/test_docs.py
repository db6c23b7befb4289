"""Docstrings that people see do not depend on how Python was started."""

import json
import os
import subprocess
import sys

import pytest

from moeash.methods.uniform.options import UniformOptions
from moeash.options.docs import docstring


def test_a_docstring_is_that_of_python():
    assert docstring(UniformOptions).startswith("k uniform bins, every weight")


COMMANDS = (["--help"], ["run", "--help"], ["spec"], ["spec", "--json"])

SAY_ALL = f"""
import contextlib, io, json, sys
from moeash.cli.main import main
said = []
for sys.argv[1:] in {COMMANDS}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                raise
    said.append(out.getvalue())
print(json.dumps(said))
"""
"""One process for all commands: most of its time goes into imports."""


@pytest.mark.slow
def test_what_people_read_is_the_same_without_docstrings():
    with_docstrings, without = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", SAY_ALL],
                env={**os.environ, "PYTHONOPTIMIZE": level},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for level in ("", "2")
    )
    assert with_docstrings == without
    assert len(without) == len(COMMANDS) and all(without)
