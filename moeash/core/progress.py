"""The callback by which long work says how far it has come."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Receives ``(what, done, total)``: the work in words, units of it that are done, and units of it
in all, None where nobody knows. Called as often as the work likes, so a listener must be quick."""


def silent(what: str, done: int, total: int | None) -> None:
    """Listen to nothing."""
