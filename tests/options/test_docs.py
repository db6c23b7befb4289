"""Docstrings that people see do not depend on how Python was started."""

import os
import subprocess
import sys

import pytest

from moeash.methods.uniform.options import UniformOptions
from moeash.options.docs import docstring


def test_a_docstring_is_that_of_python():
    assert docstring(UniformOptions).startswith("k uniform bins, every weight")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("spec",), ("spec", "--json")]
)
def test_what_people_read_is_the_same_without_docstrings(arguments):
    said = [
        subprocess.run(
            [sys.executable, "-m", "moeash.cli.main", *arguments],
            env={**os.environ, "PYTHONOPTIMIZE": level},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for level in ("", "2")
    ]
    assert said[0] == said[1] != ""
