"""Show a running study: a live bar on a terminal, plain lines elsewhere. Both listen to events."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

from moeash.console import words
from moeash.console.words import TOLERABLE_DROP, Best
from moeash.escaping import visible
from moeash.study.events import (
    STAGES,
    Doing,
    Ended,
    Evaluated,
    Event,
    GenerationEnded,
    GenerationStarted,
    Note,
    Opened,
    PhaseEnded,
    PhaseStarted,
    SolutionMerged,
    SolutionMerging,
    merged_text,
)

EXTENDING = {name: stage for name, stage in STAGES.items() if name not in ("search", "merge")}
"""Phases that take a step more on solutions, and what they have become then."""


class PlainProgress:
    """One line per event that matters, with how far, rate and best so far; for logs and pipes."""

    EVERY_S = 10.0

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        tolerable_drop: float = TOLERABLE_DROP,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._stream = stream or sys.stderr
        self._best = Best(tolerable_drop)
        self._last = self._phase_began = self._clock()
        self._what = ""
        self._phase: PhaseStarted | None = None
        self._solution: SolutionMerging | None = None
        self._new = self._done = 0

    def __call__(self, event: Event) -> None:
        """Print an event, if it is worth a line."""
        line = self._line(event)
        if line is not None:
            self._say(line)

    def _say(self, text: str) -> None:
        self._last = self._clock()
        print(visible(text), file=self._stream, flush=True)

    def _line(self, event: Event) -> str | None:
        match event:
            case Opened():
                self._best.start(event.facts)
                return words.headline(event.facts, event.n_stored)
            case Doing():
                return self._doing(event)
            case PhaseStarted():
                self._phase, self._phase_began = event, self._clock()
                self._new = self._done = 0
                return words.started(event)
            case Evaluated():
                return self._evaluated(event)
            case GenerationEnded():
                return words.generation(event, self._best)
            case SolutionMerging():
                self._solution = event
            case SolutionMerged():
                return f"{merged_text(event.payload())}, {self._best}"
            case PhaseEnded():
                self._phase, self._what = None, ""
                return words.ended(event)
            case Note():
                return f"note: {event.text}"
        return None

    def _doing(self, event: Doing) -> str | None:
        """Speak up when something else is being done, and when nothing was said for a while."""
        if self._phase is not None:  # a step of one evaluation of many
            return f"  {self._how_far()}; {words.doing(event)}" if self._is_quiet() else None
        new = event.what != self._what
        self._what = event.what
        return words.doing(event) if new or self._is_quiet() else None

    def _evaluated(self, event: Evaluated) -> str | None:
        self._best.add(event.record)
        self._done += 1
        self._new += not event.stored_before
        if event.record.outcome.status == "failed" and not event.stored_before:
            return words.failure(event.record)
        # Of solutions that are extended there are few, and each has taken long.
        due = self._is_extending and not event.stored_before
        return f"  {self._how_far()}, {self._best}" if due or self._is_quiet() else None

    @property
    def _is_extending(self) -> bool:
        return self._phase is not None and self._phase.phase in EXTENDING

    def _how_far(self) -> str:
        rate = self._new / max(self._clock() - self._phase_began, 1e-9)
        place = ""
        if self._phase is not None and self._phase.phase in EXTENDING:
            become = EXTENDING[self._phase.phase]
            return f"{self._done} of {self._phase.total} {become}, {60 * rate:.1f} a minute"
        if self._phase is not None and self._phase.phase == "merge" and self._solution is not None:
            place = f"solution {self._solution.position} of {self._solution.total}, "
        return f"{place}{self._new} evaluation{'s'[: self._new != 1]}, {rate:.2f}/s"

    def _is_quiet(self) -> bool:
        return self._clock() - self._last > self.EVERY_S

    def close(self) -> None:
        """Nothing to release."""


class LiveProgress:
    """A bar with rate and time left, and the best so far below it, for a terminal.

    It appears when it is made, before the heavy imports, so that nobody looks at a dead terminal.
    """

    SLOW_S = 2.0
    """What an evaluation is at is told when it takes longer."""

    def __init__(self, *, tolerable_drop: float = TOLERABLE_DROP) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            Task,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column
        from rich.text import Text

        class Counted(MofNCompleteColumn):
            def render(self, task: Task) -> Text:
                return Text() if task.total is None else super().render(task)

        class Left(TimeRemainingColumn):
            def render(self, task: Task) -> Text:
                return Text() if task.total is None else super().render(task).append(" left")

        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            Counted(),
            TextColumn("{task.fields[rate]}"),
            Left(table_column=Column(no_wrap=True)),
            console=self._console,
        )

        def picture() -> Group:
            below = [self._step, str(self._best) if self._opened else ""]
            lines = [f"  {line}" for line in below if line]
            return Group(
                self._bar, *(Text(visible(t), overflow="ellipsis", no_wrap=True) for t in lines)
            )

        self._best = Best(tolerable_drop)
        self._opened = False
        self._task: Any = None
        self._what: str | None = None
        self._phase: str | None = None
        self._step = ""
        self._since = self._last = time.monotonic()
        self._new = 0
        self._begin("loading", None)
        self._live = Live(
            console=self._console, get_renderable=picture, transient=True, refresh_per_second=8
        )
        self._live.start(refresh=True)  # else only after an eighth of a second

    def __call__(self, event: Event) -> None:
        """Show an event."""
        match event:
            case Opened():
                self._best.start(event.facts)
                self._opened = True
                self._print(words.headline(event.facts, event.n_stored))
            case Doing():
                self._doing(event)
            case PhaseStarted():
                self._phase, self._what = event.phase, None
                self._begin(words.started(event) or "searching", event.total)
                self._since = self._last = time.monotonic()
                self._new = 0
            case GenerationStarted():
                self._bar.update(self._task, description=f"generation {event.index}")
            case SolutionMerging():
                text = f"merging solution {event.position} of {event.total}"
                self._bar.update(self._task, description=text, completed=event.position - 1)
            case Evaluated():
                self._evaluated(event)
            case SolutionMerged():
                self._print(merged_text(event.payload()))
            case PhaseEnded():
                self._phase, self._step = None, ""
                self._say(words.ended(event))
            case Note():
                self._print(f"note: {event.text}")
            case Ended():
                self._begin("finishing", None)

    def _doing(self, event: Doing) -> None:
        if self._phase is not None:
            # A step inside an evaluation does not take the phase's bar away.
            slow = time.monotonic() - self._last > self.SLOW_S
            self._step = words.doing(event) if slow else ""
            return
        if event.what != self._what:
            self._what = event.what
            self._begin(event.what, event.total)
        self._bar.update(self._task, completed=event.done, total=event.total)

    def _evaluated(self, event: Evaluated) -> None:
        self._best.add(event.record)
        self._new += not event.stored_before
        self._step, self._last = "", time.monotonic()
        rate = self._new / max(self._last - self._since, 1e-9)
        advance = 0 if self._phase == "merge" else 1
        self._bar.update(self._task, advance=advance, rate=f"{rate:.1f}/s")
        if event.record.outcome.status == "failed" and not event.stored_before:
            self._print(words.failure(event.record))

    def _begin(self, description: str, total: int | None) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(visible(description), total=total, rate="")

    def _say(self, text: str | None) -> None:
        if text is not None:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(visible(text), highlight=False, markup=False, emoji=False)

    def close(self) -> None:
        """Take the bar away."""
        with suppress(OSError):  # of a terminal that was closed
            self._live.stop()


def for_terminal(*, tolerable_drop: float = TOLERABLE_DROP) -> PlainProgress | LiveProgress:
    """Return the display that fits where stderr goes."""
    if sys.stderr.isatty():
        return LiveProgress(tolerable_drop=tolerable_drop)
    return PlainProgress(tolerable_drop=tolerable_drop)
