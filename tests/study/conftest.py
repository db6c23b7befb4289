"""Stored studies that were never run, as for exports."""

from tests.exports.conftest import make_study

__all__ = ["make_study"]
