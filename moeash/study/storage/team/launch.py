"""One row of the table of launches, and what several of them say together."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Row

Kind = Literal["run", "export"]
LaunchState = Literal["queued", "running", "ended"]

INTERRUPTED = 130
"""Exit code of a study that was asked to end; what is larger, a signal was."""

NOT_STARTED = 126
"""Exit code of a launch that could not be started, as shells have it."""


@dataclass(frozen=True)
class LaunchRecord:
    """A launch.

    Attributes:
        id: increases within a database; a later launch has a larger one.
        kind: a study's run, or an export of one of its solutions.
        study: name of the study, which need not be stored yet.
        state: where the launch stands.
        request: what was asked for, as plain values.
        requested_by: who asked.
        requested_at: UTC, ISO 8601.
        launcher: who started it: ``process`` or ``ray``; None while it is queued.
        place: how its process is found; None while it is queued.
        folder: of its spec, log and output, on the machine that started it.
        started_at: UTC, ISO 8601; None before.
        ended_at: UTC, ISO 8601; None before.
        exit_code: of its process; None before, and where nobody could see it.
        message: why it ended as it did, in one line.
    """

    id: int
    kind: Kind
    study: str
    state: LaunchState
    request: Mapping[str, Any]
    requested_by: str
    requested_at: str
    launcher: str | None
    place: Mapping[str, Any] | None
    folder: str | None
    started_at: str | None
    ended_at: str | None
    exit_code: int | None
    message: str | None

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.state == "ended"

    @property
    def stop_asked_s(self) -> float | None:
        """Seconds since its end was asked for; None when it was not."""
        age = age_s((self.place or {}).get("stop"), "asked")
        return None if math.isinf(age) else age


def launch_of(row: Row[Any]) -> LaunchRecord:
    """Return the record of a row of launches."""
    values = row._mapping
    return LaunchRecord(**{name: values[name] for name in LaunchRecord.__dataclass_fields__})


def order(active: Sequence[LaunchRecord], served: Mapping[str, str]) -> list[int]:
    """Return the ids of what waits in the order in which it may start.

    Whoever has the fewest running comes first; then whoever was served longest ago, so that a long
    list of one person does not keep the next one waiting for all of it; then the oldest.

    Args:
        active: what is queued or runs, of one kind.
        served: when each person's last launch started; who is not in it never had one.
    """
    running = Counter(record.requested_by for record in active if record.state == "running")
    turns: dict[str, tuple[int, str]] = {who: (0, moment) for who, moment in served.items()}
    waiting = [record for record in active if record.state == "queued"]
    ids: list[int] = []

    def turn(record: LaunchRecord) -> tuple[int, tuple[int, str], int]:
        who = record.requested_by
        return running[who], turns.get(who, (0, "")), record.id

    while waiting:
        first = min(waiting, key=turn)
        waiting.remove(first)
        running[first.requested_by] += 1
        ids.append(first.id)
        turns[first.requested_by] = (len(ids), "")
    return ids


def host(place: Mapping[str, Any] | None) -> Any:
    """Return the machine of a place; None when it has none."""
    return (place or {}).get("host")


def age_s(stop: Any, what: Literal["asked", "sent"]) -> float:
    """Return how long ago an end was asked for, or a signal sent; infinity when it was not."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(stop[what])).total_seconds()
    except (KeyError, TypeError, ValueError):
        return math.inf


def is_elsewhere(found: LaunchRecord, expected: LaunchRecord) -> bool:
    """Tell whether a launch has another process than it had; that a stop is asked for is none."""
    if found.state != expected.state:
        return True
    one, other = dict(found.place or {}), dict(expected.place or {})
    one.pop("stop", None)
    other.pop("stop", None)
    return one != other
