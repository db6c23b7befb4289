"""Small real studies for tests: the shipped digits network, one thread."""

from typing import Any

from moeash.study.plan import Plan
from moeash.study.spec.reading import parse_spec
from moeash.study.spec.spec import StudySpec

BASE: dict[str, Any] = {
    "name": "digits",
    "network": {"source": "digits-cnn"},
    "data": {
        "source": "digits",
        "splits": {
            "search": {"part": "all", "count": 200, "seed": 0},
            "holdout": {"part": "all", "count": 100, "seed": 0},
        },
    },
    "evaluation": {"batch_size": 40, "threads": 1},
    "method": {"name": "uniform", "k": [2, 64]},
    "search": {"population": 8},
    "budget": {"generations": 4},
    "merge": {"trials": 0},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``changes``, table by table; None removes a key."""
    out = dict(base)
    for key, value in changes.items():
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def digits_spec(**changes: Any) -> StudySpec:
    """Return the spec of a study of seconds."""
    return parse_spec(merged(BASE, changes))


def digits_plan(**changes: Any) -> Plan:
    return Plan.from_spec(digits_spec(**changes))
