"""Patterns that say which parameters are shared."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from moeash.errors import InputError
from moeash.names import nearest


def matching(
    kind: str,
    patterns: Sequence[str],
    candidates: Sequence[str],
    names: Sequence[str],
    *,
    otherwise: str = "network.share_all = true makes 1-D ones eligible",
) -> set[str]:
    """Return the candidates that match a pattern.

    Args:
        kind: what the patterns are, for messages.
        patterns: ``fnmatch`` patterns.
        candidates: names that may match.
        names: of all parameters, candidates or not.
        otherwise: how those that are no candidates become some.

    Raises:
        InputError: a pattern matches nothing.
    """
    matched: set[str] = set()
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise InputError(f"{kind} pattern {pattern!r} is no text")
        hits = {name for name in candidates if fnmatchcase(name, pattern)}
        if not hits:
            others = [name for name in names if fnmatchcase(name, pattern)]
            if others:
                raise InputError(
                    f"{kind} pattern {pattern!r} matches only parameters that are not eligible "
                    f"for sharing, such as {others[0]!r}; {otherwise}"
                )
            raise InputError(
                f"{kind} pattern {pattern!r} matches no parameter; {nearest(pattern, names)}"
            )
        matched |= hits
    return matched


def listed(patterns: Sequence[str] | None) -> str:
    """Return patterns as messages show them."""
    return "none" if patterns is None else str(list(patterns))
