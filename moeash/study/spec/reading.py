"""Reading specs: a TOML file and overrides, or plain values, into a :class:`StudySpec`.

Files may come from anywhere, so what could take minutes or memory is refused before it is parsed.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moeash.errors import InputError, SpecError
from moeash.files import as_path, is_lfs_pointer, lfs_text, looked_for
from moeash.options.kinds import shown
from moeash.options.tables import problems_of, refuse
from moeash.study.spec.spec import PYTHON, StudySpec

MAX_BYTES = 1 << 18
"""Largest file of a spec."""

MAX_PARTS = 32
"""Most parts of a dotted key; TOML's parser takes time that grows with their square."""

_PART = r"(?:[\w-]++|\"[^\"\n]*+\"|'[^'\n]*+')"
_LONG_KEY = re.compile(rf"(?<![\w-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_PARTS}}}")

ELSEWHERE = {
    "search.stop": "rules are in [budget], one for the whole study",
    "search.reference": "the reference comes from what is measured",
    "search.mode": "search.algorithm = 'steady_nsga2' is steady",
    "merge.enabled": "merge.trials = 0 is no merging",
    "merge.floor": "merge.max_drop is the drop from the float network within which merges are kept",
    "merge.tolerance": "merge.max_drop is the drop within which merges are kept",
    "merge.max_trials": "merge.trials is their number",
    "merge.cost": "the cheapest pair by squared error goes first",
    "norms": "codec.norms is 'folded' or 'remeasured'",
    "backend.min_workers": "backend.workers is a number or [low, high]",
    "backend.max_workers": "backend.workers is a number or [low, high]",
    "backend.release_idle": "backend.workers = [low, high] releases idle workers above low",
    "method.sequential": "refine.solutions = 0 is no refining",
}
"""What keys that a person may expect are called, or why they do not exist."""


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a TOML spec and apply ``key.path=value`` overrides.

    Raises:
        InputError: it is no path.
        SpecError: unreadable, not TOML, or not a valid spec.
    """
    path = as_path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SpecError(f"{path} has {size:,} bytes, needed at most {MAX_BYTES:,}")
        with path.open(encoding="utf-8-sig") as file:  # editors of Windows begin with a mark
            text = file.read(MAX_BYTES + 1)  # a device may never end, and no text is longer
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(f"cannot read {looked_for(path)}: {reason}") from error
    if is_lfs_pointer(text.encode()):
        raise SpecError(lfs_text(str(path)))
    return spec_of_text(text, overrides, where=str(path))


def spec_of_text(text: str, overrides: Sequence[str] = (), *, where: str = "spec") -> StudySpec:
    """Return the spec that a TOML text and ``key.path=value`` overrides are.

    Raises:
        SpecError: not TOML, or not a valid spec.
    """
    data = plain_of_text(text, where=where)
    for override in overrides:
        apply_override(data, override)
    return parse_spec(data, where=where)


def plain_of_text(text: str, *, where: str = "spec") -> dict[str, Any]:
    """Return a TOML text as plain values, unchecked.

    Raises:
        SpecError: it is too long, or not TOML.
    """
    n_bytes = len(text.encode())
    if n_bytes > MAX_BYTES:
        raise SpecError(f"{where} has {n_bytes:,} bytes, needed at most {MAX_BYTES:,}")
    try:
        return _toml(text)
    except ValueError as error:
        raise SpecError(f"{where} is not TOML: {error}") from error


def any_spec(spec: str | Path | Mapping[str, Any] | StudySpec) -> StudySpec:
    """Return the spec that a path, plain values or a spec are.

    Raises:
        InputError: it is none of these.
        SpecError: it does not say what to do.
    """
    if isinstance(spec, StudySpec):
        return spec
    return parse_spec(spec) if isinstance(spec, Mapping) else load_spec(spec)


def parse_spec(data: Mapping[str, Any], *, where: str = "spec") -> StudySpec:
    """Check plain values and return the spec.

    Args:
        data: nested mappings as TOML gives them.
        where: named in errors.

    Raises:
        SpecError: every problem, in one line: where it is, what came, what was needed.
    """
    problems = []
    data = dict(data)
    for place, instead in ELSEWHERE.items():
        *tables, key = place.split(".")
        here: Any = data
        for table in tables:
            if isinstance(here.get(table), Mapping):
                here[table] = dict(here[table])
            here = here.get(table)
            if not isinstance(here, dict):
                break
        else:
            if key in here:
                del here[key]
                problems.append(f"unknown key {place!r}; {instead}")
    try:
        spec = StudySpec.from_dict(data)
    except InputError as error:
        problems += problems_of(error)
    else:
        if spec.is_python:
            problems.append("network.source 'python:' is what moeash.search makes; name a factory")
    refuse(problems, SpecError, f"{where}: ")
    return spec


def spec_of_module(
    plain: Mapping[str, Any], *, module: str, metric: str, calibration: str | None = None
) -> StudySpec:
    """Return the spec of a study whose module and function are given in Python.

    Args:
        plain: the spec's other tables, with ``name``.
        module: qualified name of the module's class.
        metric: name of the function that measures.
        calibration: fingerprint of calibration inputs.

    Raises:
        SpecError: every problem, in one line.
    """
    network, evaluation = (plain.get(table, {}) for table in ("network", "evaluation"))
    for table, given in (("network", network), ("evaluation", evaluation)):
        if not isinstance(given, Mapping):
            raise SpecError(f"spec: {table} is {shown(given)}, needed a table")
    made = {
        **plain,
        "network": {**network, "source": PYTHON + module},
        "evaluation": {**evaluation, "metric": metric},
    }
    if calibration is not None:
        made["calibration"] = calibration
    try:
        return StudySpec.from_dict(made)
    except InputError as error:
        raise SpecError(f"spec: {error}") from error


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in nested tables; the value is TOML, or else text."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"--set {shown(override)} is not KEY.PATH=VALUE")
    *tables, last = key.strip().split(".")
    if len(tables) >= MAX_PARTS:
        raise SpecError(f"--set {shown(override)}: the key has {len(tables) + 1} parts")
    try:
        value: Any = _toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    here: Any = data
    for table in tables:
        here = here.setdefault(table, {})
        if not isinstance(here, dict):
            raise SpecError(f"--set {shown(override)}: {table!r} is a value, not a table")
    here[last] = value


def _toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is none, or nobody would write it by hand.
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MAX_PARTS} parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("lists or tables nested too deep") from error
