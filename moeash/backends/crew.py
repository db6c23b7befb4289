"""Where workers come from, and what can happen to them: the side of a pool that faces a runtime."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

Result = TypeVar("Result")
P_contra = TypeVar("P_contra", contravariant=True)

Cause = Literal["worker", "node", "memory"]


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    worker: int


@dataclass(frozen=True)
class StartFailed:
    """A worker could not start; ``fatal`` when every other one would fail in the same way."""

    worker: int
    reason: str
    fatal: bool = False


@dataclass(frozen=True)
class Beat:
    """A worker gets on with what it does: its payload, or its start.

    Attributes:
        worker: that told it.
        what: it is doing, in words.
        done: units of that which are done.
        total: units of that in all; None where nobody knows.
    """

    worker: int
    what: str
    done: int
    total: int | None


@dataclass(frozen=True)
class Answered(Generic[Result]):
    """A worker finished its payload."""

    worker: int
    result: Result


@dataclass(frozen=True)
class Raised:
    """A payload made its worker raise; the worker lives on."""

    worker: int
    reason: str


@dataclass(frozen=True)
class Lost:
    """A worker is gone, and whose fault that can be."""

    worker: int
    reason: str
    cause: Cause


Event = Ready | StartFailed | Beat | Answered[Result] | Raised | Lost


class Crew(Protocol[P_contra, Result]):
    """Starts, calls and ends workers. A worker is known by the number the pool gives it."""

    def start(self, worker: int) -> None:
        """Begin to start a worker."""
        ...

    def call(self, worker: int, payload: P_contra) -> None:
        """Begin a payload on an idle worker."""
        ...

    def wait(self, timeout_s: float) -> "Sequence[Event[Result]]":
        """Return what happened, waiting at most so long when nothing did."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker, whatever it does; no event of it follows."""
        ...

    def why_not_starting(self) -> str:
        """Return one line on why workers may not be starting."""
        ...

    def now(self) -> float:
        """Return a monotonic time in seconds."""
        ...
