"""Marks for single cases of a parametrised test."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Return one case that the quick loop leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def few_quick(values: Iterable[Any], *quick: Any) -> list[Any]:
    """Return the cases of a test of which the quick loop has these, and the whole suite all."""
    values = list(values)
    assert all(value in values for value in quick), "what is quick is one of them"
    return [value if value in quick else slow(value) for value in values]
