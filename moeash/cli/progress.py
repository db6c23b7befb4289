"""Show a running study: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:  # the bar is on screen before these are loaded
    from moeash.study.facts import StudyFacts
    from moeash.study.storage.records import EvaluationRecord, GenerationRecord

TOLERABLE_DROP = 0.01
"""The drop up to which the progress line looks for the best solution unless a spec says."""


class Best:
    """The smallest solution so far within a tolerable drop, for the progress line."""

    def __init__(self, tolerable_drop: float = TOLERABLE_DROP) -> None:
        self._tolerable_drop = tolerable_drop
        self._facts: StudyFacts | None = None
        self._size_bytes: int | None = None
        self._drop = 0.0

    def start(self, facts: "StudyFacts") -> None:
        """Begin a study."""
        self._facts, self._size_bytes = facts, None

    def see(self, record: "EvaluationRecord") -> None:
        """Take an evaluation into account."""
        outcome = record.outcome
        if self._facts is None or outcome.metric is None or outcome.sizes is None:
            return
        drop = self._facts.baseline - outcome.metric
        # As when a solution is picked: a drop of exactly so much passes whatever its last bit says.
        if drop > self._tolerable_drop + 1e-12:
            return
        if self._size_bytes is None or outcome.sizes.size_bytes < self._size_bytes:
            self._size_bytes, self._drop = outcome.sizes.size_bytes, drop

    def __str__(self) -> str:
        if self._facts is None or self._size_bytes is None:
            return f"nothing within a drop of {self._tolerable_drop:g} yet"
        ratio = self._facts.original_bytes / self._size_bytes
        return f"best {self._size_bytes:,} B (ratio {ratio:.1f}) at drop {self._drop:+.4f}"


def headline(facts: "StudyFacts", n_stored: int) -> str:
    """Return the first line of a study: what is shared, what is measured."""
    text = (
        f"study {facts.name}: {facts.n_shared:,} weights shared, {facts.n_kept:,} kept, "
        f"{facts.original_bytes:,} B as float32; "
        f"float network {facts.metric_name} {facts.baseline_text} on the search split"
    )
    return text + (f"; continuing after {n_stored:,} stored evaluations" if n_stored else "")


def refining(total: int) -> str:
    """Return what is said before the front's solutions are refined."""
    return f"refining {total} solution{'s'[: total != 1]} of the front"


def _merged(parent: "EvaluationRecord", entries: int, trials: int) -> str:
    before = parent.outcome.sizes.entries if parent.outcome.sizes else 0
    return (
        f"merged solution {parent.number} ({parent.candidate}): {before} -> {entries} entries "
        f"in {trials} trials"
    )


def _failure(record: "EvaluationRecord") -> str:
    return f"evaluation {record.number} ({record.candidate}) failed: {record.outcome.error}"


class PlainProgress:
    """One line per event that matters, with rate and best so far; for logs and pipes."""

    EVERY_S = 10.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._best = Best()
        self._started = self._last = time.monotonic()
        self._new = 0

    def expect(self, *, generations: int | None, tolerable_drop: float) -> None:
        """Say before the study starts how far it goes and which drop is tolerable."""
        self._best = Best(tolerable_drop)

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        print(text, file=self._stream, flush=True)

    def started(self, facts: "StudyFacts", *, n_stored: int) -> None:
        """Say what is searched."""
        self._best.start(facts)
        self._started = time.monotonic()
        self._say(headline(facts, n_stored))

    def generation_started(self, index: int, *, n_candidates: int, n_new: int) -> None:
        """Stay silent: the end of a generation says more."""

    def evaluated(self, record: "EvaluationRecord", *, stored_before: bool) -> None:
        """Count; speak up only when nothing was said for a while."""
        self._best.see(record)
        self._new += not stored_before
        if record.outcome.status == "failed" and not stored_before:
            self._say(_failure(record))
        elif time.monotonic() - self._last > self.EVERY_S:
            rate = self._new / max(time.monotonic() - self._started, 1e-9)
            self._say(f"  {self._new} evaluations, {rate:.2f}/s, {self._best}")

    def generation_ended(self, generation: "GenerationRecord") -> None:
        """Report a generation."""
        self._say(
            f"generation {generation.index}: {generation.n_evaluations} evaluated, "
            f"front {generation.n_front}, hypervolume {generation.hypervolume:.6f}, {self._best}"
        )

    def search_ended(self, reason: str) -> None:
        """Say why the search ended."""
        self._say(f"search ended: {reason}")

    def refine_started(self, total: int) -> None:
        """Say what comes, as it may take as long as the search."""
        self._say(refining(total))

    def merge_started(self, parent: "EvaluationRecord", *, position: int, total: int) -> None:
        """Stay silent: the end of a merge pass says more."""

    def merge_ended(self, parent: "EvaluationRecord", *, entries: int, trials: int) -> None:
        """Report a merge pass."""
        self._say(f"{_merged(parent, entries, trials)}, {self._best}")

    def note(self, message: str) -> None:
        """Pass on a message."""
        self._say(f"note: {message}")

    def exporting(self) -> None:
        """Stay silent: what was exported is the command's answer."""

    def close(self) -> None:
        """Nothing to release."""


class LiveProgress:
    """A bar with rate and time left, and the best so far below it, for a terminal.

    It appears when it is made, before the heavy imports, so that nobody looks at a dead terminal.
    """

    def __init__(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        self._console = Console(stderr=True)
        self._bar = Progress(
            SpinnerColumn("line"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
        )

        def picture() -> Group:
            best = Text(f"  {self._best}" if self._started else "", overflow="ellipsis")
            best.no_wrap = True
            return Group(self._bar, best)

        self._best = Best()
        self._started = False
        self._generations: int | None = None
        self._task: Any = None
        self._since = time.monotonic()
        self._new = 0
        self._begin("loading", None)
        self._live = Live(
            console=self._console, get_renderable=picture, transient=True, refresh_per_second=8
        )
        self._live.start()

    def expect(self, *, generations: int | None, tolerable_drop: float) -> None:
        """Say before the study starts how far it goes and which drop is tolerable."""
        self._generations = generations
        self._best = Best(tolerable_drop)

    def _begin(self, description: str, total: int | None) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(description, total=total, rate="")

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False)

    def started(self, facts: "StudyFacts", *, n_stored: int) -> None:
        """Show what is searched."""
        self._best.start(facts)
        self._started = True
        self._print(headline(facts, n_stored))
        self._since = time.monotonic()

    def generation_started(self, index: int, *, n_candidates: int, n_new: int) -> None:
        """Begin the bar, or move it to where this generation begins."""
        of = f" of {self._generations}" if self._generations else ""
        if index == 1:
            total = None if self._generations is None else self._generations * n_candidates
            self._begin("", total)
        self._bar.update(
            self._task,
            description=f"generation {index}{of}",
            completed=(index - 1) * n_candidates,
        )

    def evaluated(self, record: "EvaluationRecord", *, stored_before: bool) -> None:
        """Advance."""
        self._best.see(record)
        self._new += not stored_before
        rate = self._new / max(time.monotonic() - self._since, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.1f}/s")
        if record.outcome.status == "failed" and not stored_before:
            self.note(_failure(record))

    def generation_ended(self, generation: "GenerationRecord") -> None:
        """Leave the bar: the next generation continues it."""

    def search_ended(self, reason: str) -> None:
        """Say why the search ended."""
        self._print(f"search ended: {reason}")

    def refine_started(self, total: int) -> None:
        """Begin a bar."""
        self._begin(refining(total), total)
        self._since, self._new = time.monotonic(), 0

    def merge_started(self, parent: "EvaluationRecord", *, position: int, total: int) -> None:
        """Show a bar of unknown length: how many trials a pass takes is not known before."""
        self._begin(f"merging {position} of {total} ({parent.candidate})", None)

    def merge_ended(self, parent: "EvaluationRecord", *, entries: int, trials: int) -> None:
        """Report a merge pass."""
        self._print(_merged(parent, entries, trials))

    def note(self, message: str) -> None:
        """Print above the bar."""
        self._print(f"note: {message}")

    def exporting(self) -> None:
        """Show that the picked solution is verified and measured."""
        self._begin("exporting, verifying, measuring on the holdout split, drawing", None)

    def close(self) -> None:
        """Take the bar away."""
        self._live.stop()


def for_terminal() -> PlainProgress | LiveProgress:
    """Return the progress that fits where stderr goes."""
    return LiveProgress() if sys.stderr.isatty() else PlainProgress()
