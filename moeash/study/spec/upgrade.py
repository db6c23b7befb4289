"""Versions of the spec: older ones are upgraded step by step, newer ones refused.

A version changes when a stored spec or a file would mean something else: a key is renamed, a
default changes. An option that is added with a default that does what was done before changes none.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from moeash.errors import InputError
from moeash.options.kinds import INT_LIMIT, shown

VERSION: Final = 1

Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

UPGRADES: Mapping[int, Upgrade] = {}
"""What makes a spec of a version one of the next."""


def upgraded(
    plain: Mapping[str, Any],
    *,
    version: int = VERSION,
    upgrades: Mapping[int, Upgrade] = UPGRADES,
) -> dict[str, Any]:
    """Return a spec's plain values in the present version; without one they are of version 1.

    Args:
        plain: nested mappings; left as they are.
        version: the present one.
        upgrades: steps from each version to the next.

    Raises:
        InputError: the version is newer than this moeash, or none.
    """
    spec = dict(plain)
    found = spec.get("version", 1)
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found < INT_LIMIT:
        raise InputError(f"version is {shown(found)}, needed an integer from 1 to {version}")
    if found > version:
        raise InputError(
            f"version is {found}, and this moeash reads specs up to version {version}; install a "
            "newer moeash"
        )
    for step in range(found, version):
        spec = upgrades[step](spec)
    return {**spec, "version": version}
