"""The examples in docstrings run and show what they say."""

import doctest
import importlib
import inspect
import tempfile
from pathlib import Path

import pytest

import moeash
from tests.marks import slow

PACKAGE = Path(moeash.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text()
)
FUNCTIONS = [name for name in moeash.__all__ if inspect.isfunction(getattr(moeash, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_public_function_shows_an_example(name):
    function = getattr(moeash, name)
    (found,) = doctest.DocTestFinder(recurse=False).find(function, name)
    assert "\n    Example:\n" in function.__doc__
    assert any(f"moeash.{name}(" in example.source for example in found.examples)
    assert any(example.want for example in found.examples), "an example that shows nothing"


@pytest.mark.parametrize("name", [slow(m) if m.startswith("moeash.api.") else m for m in MODULES])
def test_examples_show_what_happens(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failed, tried = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert tried and not failed
