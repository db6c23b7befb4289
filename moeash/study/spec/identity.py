"""What makes two studies one and the same."""

import copy
import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from moeash.methods.options import OPTIONS

PATHS = (("network", "checkpoint"), ("data", "root"), ("method", "start"))
"""Where files are. They may move: what is in them has fingerprints of its own."""

PLACES = (*PATHS, ("evaluation", "device"))
"""What somebody who looks at a stored study may have elsewhere: its files, and the GPU it ran on.
Running it on another device would mix values that were rounded differently."""

NOT_IDENTIFYING = (
    ("version",),
    ("budget",),
    ("refine",),
    ("merge",),
    ("distill",),
    ("tune",),
    ("training",),
    ("backend",),
    ("output",),
    *PATHS,
)
"""What may change when a study is continued: how long it goes on, what is added to its front and
how (recipes say it), where it runs, and paths. How a method that trains does so may not."""

TRAINING_METHODS = {name for name, options in OPTIONS.items() if options.trains}


def identifying(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec's plain values without those that do not identify the study."""
    identity: dict[str, Any] = copy.deepcopy(dict(plain))
    method = identity.get("method") or {}
    training = identity.get("training") or {}
    for *tables, key in NOT_IDENTIFYING:
        here: Any = identity
        for table in tables:
            here = here.get(table) or {}
        here.pop(key, None)
    if training and method.get("name") in TRAINING_METHODS:
        identity["training"] = training
    data = identity.get("data")
    if data:
        # Splits are drawn one after the other, so their order is part of them.
        data["splits"] = [[name, rule] for name, rule in data["splits"].items()]
    return identity


def with_places(plain: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec's plain values with files and device where another spec has them.

    Example:
        >>> with_places({"data": {"source": "npz", "root": "a"}}, {"data": {"root": "b"}})
        {'data': {'source': 'npz', 'root': 'b'}}
    """
    moved: dict[str, Any] = copy.deepcopy(dict(plain))
    for table, key in PLACES:
        here, place = moved.get(table), (now.get(table) or {}).get(key)
        if here and place is not None:
            here[key] = place
        elif here:
            here.pop(key, None)
    return moved


def fingerprint_of(identity: Mapping[str, Any]) -> str:
    """Return 32 hex digits over canonical JSON."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return blake2b(canonical.encode(), digest_size=16).hexdigest()


def differences(stored: Any, now: Any, place: str = "") -> list[str]:
    """Return in words where two identities differ, defaults included; nothing for equal ones.

    Example:
        >>> differences({"seed": 0, "codec": {"coder": "ans"}}, {"seed": 1, "codec": {}})
        ['seed: stored 0, now 1', "codec.coder: stored 'ans', now None"]
        >>> differences([["a", {"count": 3}]], [["a", {"count": 4}]], "data.splits")
        ['data.splits.a.count: stored 3, now 4']
    """
    if _is_named(stored) and _is_named(now):
        before, after = ([name for name, _ in each] for each in (stored, now))
        if before != after and sorted(before) == sorted(after):
            return [f"{place}: stored in the order {', '.join(before)}, now {', '.join(after)}"]
        stored, now = dict(stored), dict(now)
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        if place == "method" and stored["name"] != now["name"]:
            # The options of two methods say nothing beside each other.
            stored, now = ({"name": method["name"]} for method in (stored, now))
        keys = [*stored, *(key for key in now if key not in stored)]
        return [
            line
            for key in keys
            for line in differences(stored.get(key), now.get(key), f"{place}.{key}".lstrip("."))
        ]
    return [] if stored == now else [f"{place}: stored {stored!r}, now {now!r}"]


def _is_named(value: Any) -> bool:
    """Tell whether a value is tables by name, whose order counts: splits."""
    return isinstance(value, list) and all(
        isinstance(each, list)
        and len(each) == 2
        and isinstance(each[0], str)
        and isinstance(each[1], Mapping)
        for each in value
    )
