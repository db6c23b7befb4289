"""Marks for single cases of a parametrised test."""

from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """Return one case that the quick loop leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)
