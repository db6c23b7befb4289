"""Docstrings that people see: of commands and options. They are read where Python drops them."""

import ast
import inspect
import sys
from functools import cache
from typing import Any


def docstring(of: Any) -> str:
    """Return the docstring of a class or function, from its source under ``PYTHONOPTIMIZE=2``.

    Empty where there is neither.
    """
    if sys.flags.optimize < 2:
        return inspect.getdoc(of) or ""
    # What dataclasses put in the place of a docstring that was dropped is none.
    return _in_source(inspect.getmodule(of)).get(of.__qualname__, "")


@cache
def _in_source(module: Any) -> dict[str, str]:
    """Return the docstrings of a module's own classes and functions, as its source has them."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return {}
    found = (
        (node.name, ast.get_docstring(node))
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    )
    return {name: text for name, text in found if text is not None}
