"""What pictures of several studies have in common."""

from collections.abc import Sequence
from typing import Any

from moeash.errors import InputError
from moeash.exports.plots.canvas import COLOURS
from moeash.study.study import Study

_LINES = ("-", (0, (4, 1.2)), (0, (1, 1)))
"""A seventh study shares the first one's colour, but not its line."""


def style_of(position: int) -> tuple[str, Any]:
    """Return the colour and line of the study drawn at a position."""
    return COLOURS[position % len(COLOURS)], _LINES[position // len(COLOURS) % len(_LINES)]


def check_alike(studies: Sequence[Study], fact: str, complaint: str) -> None:
    """Refuse studies that do not compare.

    Args:
        studies: to be drawn together.
        fact: what has to be the same, an attribute of their facts.
        complaint: how the message about two that differ goes on.

    Raises:
        InputError: there is none, or two differ.
    """
    if not studies:
        raise InputError("name at least one study to draw")
    first = getattr(studies[0].facts, fact)
    for study in studies[1:]:
        other = getattr(study.facts, fact)
        if other != first:
            raise InputError(
                f"studies {studies[0].name!r} ({first}) and {study.name!r} ({other}) {complaint}"
            )
