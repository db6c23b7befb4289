"""Show a running study: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any, TextIO

from moeash.study.storage.records import EvaluationRecord, GenerationRecord, StudyFacts


class Best:
    """The smallest solution so far within a tolerable drop, for the progress line."""

    TOLERABLE_DROP = 0.01

    def __init__(self) -> None:
        self._facts: StudyFacts | None = None
        self._best: EvaluationRecord | None = None

    def start(self, facts: StudyFacts) -> None:
        """Begin a study."""
        self._facts, self._best = facts, None

    def see(self, record: EvaluationRecord) -> None:
        """Take an evaluation into account."""
        outcome = record.outcome
        if self._facts is None or outcome.metric is None or outcome.sizes is None:
            return
        if self._facts.baseline - outcome.metric > self.TOLERABLE_DROP:
            return
        best = self._best
        if (
            best is None
            or best.outcome.sizes is None
            or outcome.sizes.size_bytes < best.outcome.sizes.size_bytes
        ):
            self._best = record

    def __str__(self) -> str:
        if self._facts is None or self._best is None or self._best.outcome.sizes is None:
            return f"no solution within {self.TOLERABLE_DROP} yet"
        outcome = self._best.outcome
        assert outcome.metric is not None and outcome.sizes is not None
        drop = self._facts.baseline - outcome.metric
        return f"best {outcome.sizes.size_bytes:,} B at drop {drop:+.4f}"


def headline(facts: StudyFacts, n_stored: int) -> str:
    """Return the first line of a study: what is shared, what is measured."""
    text = (
        f"study {facts.name}: {facts.n_shared:,} weights shared, {facts.n_kept:,} kept, "
        f"{facts.original_bytes:,} B as float32; "
        f"float network {facts.metric_name} {facts.baseline:.4f} on the search split"
    )
    return text + (f"; continuing after {n_stored} stored evaluations" if n_stored else "")


class PlainProgress:
    """One line per event that matters, with rate and best so far; for logs and pipes."""

    EVERY_S = 10.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._best = Best()
        self._started = self._last = time.monotonic()
        self._new = 0
        self._trials = 0

    def _say(self, text: str) -> None:
        self._last = time.monotonic()
        print(text, file=self._stream, flush=True)

    def started(self, facts: StudyFacts, *, n_stored: int) -> None:
        """Say what is searched."""
        self._best.start(facts)
        self._started = time.monotonic()
        self._say(headline(facts, n_stored))

    def generation_started(self, index: int, *, n_candidates: int, n_new: int) -> None:
        """Stay silent: the end of a generation says more."""

    def evaluated(self, record: EvaluationRecord, *, stored_before: bool) -> None:
        """Count; speak up only when nothing was said for a while."""
        self._best.see(record)
        self._new += not stored_before
        if record.outcome.status == "failed" and not stored_before:
            self._say(f"evaluation {record.number} ({record.candidate}): {record.outcome.error}")
        elif time.monotonic() - self._last > self.EVERY_S:
            rate = self._new / max(time.monotonic() - self._started, 1e-9)
            self._say(f"  {self._new} evaluations, {rate:.2f}/s, {self._best}")

    def generation_ended(self, generation: GenerationRecord) -> None:
        """Report a generation."""
        self._say(
            f"generation {generation.index}: {generation.n_evaluations} evaluated, "
            f"front {generation.n_front}, hypervolume {generation.hypervolume:.6f}, {self._best}"
        )

    def search_ended(self, reason: str) -> None:
        """Say why the search ended."""
        self._say(f"search ended: {reason}")

    def merge_started(self, parent: EvaluationRecord, *, position: int, total: int) -> None:
        """Stay silent: the end of a merge pass says more."""

    def merge_ended(self, parent: EvaluationRecord, *, entries: int, trials: int) -> None:
        """Report a merge pass."""
        before = parent.outcome.sizes.entries if parent.outcome.sizes else 0
        self._say(
            f"merged solution {parent.number} ({parent.candidate}): {before} -> {entries} entries "
            f"in {trials} trials, {self._best}"
        )

    def note(self, message: str) -> None:
        """Pass on a message."""
        self._say(f"note: {message}")

    def close(self) -> None:
        """Nothing to release."""


class LiveProgress:
    """A bar with rate, time left and best so far, for a terminal."""

    def __init__(self, generations: int | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("{task.fields[best]}"),
            console=self._console,
            transient=True,
        )
        self._generations = generations
        self._best = Best()
        self._task: Any = None
        self._since = time.monotonic()
        self._new = 0

    def _begin(self, description: str, total: int | None) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(description, total=total, rate="", best=str(self._best))

    def started(self, facts: StudyFacts, *, n_stored: int) -> None:
        """Show what is searched and start the bar."""
        self._best.start(facts)
        self._console.print(headline(facts, n_stored), highlight=False)
        self._since = time.monotonic()
        self._bar.start()

    def generation_started(self, index: int, *, n_candidates: int, n_new: int) -> None:
        """Begin the bar, or extend it by one generation."""
        of = f" of {self._generations}" if self._generations else ""
        if self._task is None:
            total = None if self._generations is None else self._generations * n_candidates
            self._begin(f"generation {index}{of}", total)
        else:
            self._bar.update(self._task, description=f"generation {index}{of}")

    def evaluated(self, record: EvaluationRecord, *, stored_before: bool) -> None:
        """Advance."""
        self._best.see(record)
        self._new += not stored_before
        rate = self._new / max(time.monotonic() - self._since, 1e-9)
        self._bar.update(self._task, advance=1, rate=f"{rate:.2f}/s", best=str(self._best))
        if record.outcome.status == "failed" and not stored_before:
            self.note(f"evaluation {record.number} ({record.candidate}): {record.outcome.error}")

    def generation_ended(self, generation: GenerationRecord) -> None:
        """Leave the bar: the next generation continues it."""

    def search_ended(self, reason: str) -> None:
        """Say why the search ended."""
        self._console.print(f"search ended: {reason}", highlight=False)
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None

    def merge_started(self, parent: EvaluationRecord, *, position: int, total: int) -> None:
        """Show a bar of unknown length: how many trials a pass takes is not known before."""
        self._begin(f"merging {position} of {total} ({parent.candidate})", None)

    def merge_ended(self, parent: EvaluationRecord, *, entries: int, trials: int) -> None:
        """Report a merge pass."""
        before = parent.outcome.sizes.entries if parent.outcome.sizes else 0
        self._console.print(
            f"merged solution {parent.number} ({parent.candidate}): {before} -> {entries} entries "
            f"in {trials} trials",
            highlight=False,
        )

    def note(self, message: str) -> None:
        """Print above the bar."""
        self._console.print(f"note: {message}", highlight=False)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def for_terminal(generations: int | None) -> PlainProgress | LiveProgress:
    """Return the progress that fits where stderr goes."""
    return LiveProgress(generations) if sys.stderr.isatty() else PlainProgress()
