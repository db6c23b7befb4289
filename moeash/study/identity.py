"""What makes two studies one and the same, now and when what is stored is older than an option."""

import copy
from collections.abc import Mapping
from typing import Any

from moeash.compression.keeping import NormsChoice

NORMS_BEFORE: NormsChoice = "as_they_are"
"""What studies did that were stored before ``codec.norms``; they can still be continued as that."""


def identity_of(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain spec values without those that do not identify a study."""
    identity: dict[str, Any] = copy.deepcopy(dict(plain))
    for *tables, key in (
        ("backend",),
        ("output",),
        ("search", "stop"),
        ("refine",),
        ("network", "checkpoint"),
        ("data", "root"),
    ):
        here = identity
        for table in tables:
            here = here.get(table, {})
        here.pop(key, None)
    codec = identity.get("codec", {})
    if codec.get("norms") == NORMS_BEFORE:
        del codec["norms"]
        if not codec:
            del identity["codec"]
    # Studies that were stored before the table left BatchNorms alone, as one does that chooses to.
    norms = identity.get("norms", {})
    if not norms.get("remeasure"):
        norms.pop("images", None)
    if not any(norms.values()):
        identity.pop("norms", None)
    return identity


def with_choices(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored spec that says what it did where there was no choice when it was stored."""
    codec = {"norms": NORMS_BEFORE, **plain.get("codec", {})}
    return {**plain, "codec": codec}
