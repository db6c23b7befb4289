"""Where a study stands, as one plain document: for the terminal, a page, or whoever watches.

Everything comes from counts, a few generations and a few events: no evaluation that went well is
read, so that the document of a study of any length takes milliseconds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from moeash.options.tables import read
from moeash.study.course.budget import ENDINGS
from moeash.study.course.options import BudgetOptions
from moeash.study.events import STAGES, merged_text
from moeash.study.storage.base import Storage
from moeash.study.storage.records import EvaluationRecord, EventRecord, StudySummary
from moeash.study.study import Study

RECENT_EVALUATIONS = 50
RECENT_GENERATIONS = 3
RECENT_SOLUTIONS = 5
N_FAILURES = 100
N_EVENTS = 20

TELLING = (
    "opened",
    "phase_started",
    "phase_ended",
    "solution_merged",
    "workers",
    "holdout_opened",
    "note",
    "ended",
)
"""The kinds of event that a person is shown: the others are counts."""


@dataclass(frozen=True)
class Phase:
    """One phase of a study.

    Attributes:
        phase: one of :data:`moeash.study.events.PHASES`.
        state: ``waiting`` before it begins, ``running``, ``ended``, ``stopped`` before its end;
            ``skipped`` where the study has finished without it.
        evaluations: stored, of all runs of the study.
        complete: of them.
        stopped: of them.
        failed: of them.
        done: of ``total``: evaluations, or for ``merge`` solutions.
        total: what it will take at most; None where nobody knows.
        ending: why it ended; None before it has.
        per_minute: evaluations a minute at present; None unless it runs, and before there are two.
        left_s: until it ends at this pace; None where that cannot be told.
    """

    phase: str
    state: str
    evaluations: int
    complete: int
    stopped: int
    failed: int
    done: int
    total: int | None
    ending: str | None
    per_minute: float | None
    left_s: float | None


def summary_of(
    study: Study,
    *,
    counted: StudySummary | None = None,
    n_front: int | None = None,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Return where a study stands, as plain JSON values.

    Args:
        study: of any status.
        counted: its counts, where they are known already; counting takes a while.
        n_front: solutions on its front, likewise.
        now: the present, for tests.
    """
    storage, study_id = study.storage, study.record.id
    if counted is None:
        (counted,) = storage.summaries([study.name])
    record, facts, status = counted.record, counted.record.facts, counted.status
    watch = _Counted(storage, study_id, counted, now or datetime.now(UTC))
    phases = [watch.phase(name) for name in STAGES]
    present = next((phase for phase in phases if phase.state == "running"), None)
    last = storage.events(study_id, kinds=TELLING, limit=N_EVENTS, newest=True)
    n = counted.n()
    failures: Sequence[EvaluationRecord] = ()
    if counted.n(status="failed"):
        failures = storage.evaluations(study_id, status="failed", limit=N_FAILURES)
    doing = record.activity if status in ("running", "crashed") else None
    return {
        "name": facts.name,
        "status": status,
        "reason": _reason(counted, last),
        "ending": record.ending,
        "owner": counted.holder or record.owner,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "baseline": facts.baseline,
        "remeasured_baseline": facts.remeasured_baseline,
        "metric_name": facts.metric_name,
        "n_shared": facts.n_shared,
        "n_kept": facts.n_kept,
        "original_bytes": facts.original_bytes,
        "evaluations": n,
        **{name: counted.n(status=name) for name in ("complete", "stopped", "failed")},
        "retriable": sum(count.n_retriable for count in counted.counts),
        "generations": counted.n_generations,
        "hypervolume": counted.hypervolume,
        "front": len(study.front_numbers()) if n_front is None else n_front,
        "smallest_bytes": counted.smallest_bytes,
        "phases": [asdict(phase) for phase in phases],
        "phase": None if present is None else present.phase,
        "doing": None if doing is None else _plain(doing),
        "workers": watch.workers if status == "running" else 0,
        "evaluations_per_minute": None if present is None else present.per_minute,
        "phase_left_s": None if present is None else present.left_s,
        "search_left_s": phases[0].left_s,
        "forward_batches": sum(count.n_batches for count in counted.counts),
        "forward_batches_of_full_evaluations": n * facts.n_batches,
        "evaluation_seconds": sum(count.duration_s for count in counted.counts),
        "environment": dict(facts.environment),
        "errors": [
            {
                "id": failure.number,
                "recipe": failure.recipe.as_dict(),
                "text": str(failure.recipe),
                "error": failure.outcome.error,
                "retriable": failure.outcome.retriable,
            }
            for failure in failures
        ],
        "events": [_plain(event) for event in last],
    }


def in_words(event: EventRecord) -> str:
    """Return an event for people, as one line."""
    values = event.payload
    match event.kind:
        case "note":
            return str(values["text"])
        case "doing":
            of = "" if values["total"] is None else f", {values['done']} of {values['total']}"
            return f"{values['what']}{of}"
        case "opened":
            stored = values["n_stored"]
            return "began" + (f" with {stored:,} stored evaluations" if stored else "")
        case "phase_started":
            of = "" if values["total"] is None else f", {values['total']:,} at most"
            return f"{values['phase']} began{of}"
        case "phase_ended":
            return f"{values['phase']} ended: {ENDINGS.get(values['ending'], values['ending'])}"
        case "generation_started":
            return f"evaluating generation {values['index']}"
        case "generation_ended":
            return f"generation {values['index']} ended"
        case "evaluated":
            return f"evaluation {values['number']} was {values['status']}"
        case "solution_merging":
            return f"merging solution {values['position']} of {values['total']}"
        case "solution_merged":
            return merged_text(values)
        case "holdout_opened":
            return f"solution {values['number']} was measured on the holdout split"
        case "workers":
            return f"{values['workers']} worker{'s'[: values['workers'] != 1]}"
        case "ended":
            reason = values["reason"]
            return str(values["status"]) + (f": {reason}" if reason else "")
        case _:
            return event.kind


class _Counted:
    """Derives the phases of a study from its counts and events."""

    def __init__(
        self,
        storage: Storage,
        study_id: int,
        counted: StudySummary,
        now: datetime,
    ) -> None:
        self._storage = storage
        self._study_id = study_id
        self._counted = counted
        self._now = now.timestamp()
        kinds = ("opened", "phase_started", "phase_ended")
        self._course = storage.events(study_id, kinds=kinds)
        self._opened = next((e for e in reversed(self._course) if e.kind == "opened"), None)
        self._budget = BudgetOptions()
        if self._opened is not None:
            self._budget = read(BudgetOptions, self._opened.payload["budget"])

    @property
    def workers(self) -> int:
        """How many workers live, as far as the present process has said."""
        after = 0 if self._opened is None else self._opened.id
        said = self._storage.events(
            self._study_id, kinds=("workers",), after=after, limit=1, newest=True
        )
        return int(said[0].payload["workers"]) if said else 0

    def phase(self, name: str) -> Phase:
        stage = STAGES[name]
        counts = {
            status: self._counted.n(stage=stage, status=status)
            for status in ("complete", "stopped", "failed")
        }
        n = self._counted.n(stage=stage)
        mine = [e for e in self._course if e.payload.get("phase") == name]
        started = next((e for e in reversed(mine) if e.kind == "phase_started"), None)
        if started is None:
            state = "skipped" if self._counted.status == "finished" else "waiting"
            return Phase(name, state, n, **counts, done=0, total=None, ending=None,
                         per_minute=None, left_s=None)  # fmt: skip
        later = [e for e in self._course if e.id > started.id]
        ended = next((e for e in later if e in mine and e.kind == "phase_ended"), None)
        over = ended or next((e for e in later if e.kind == "opened"), None)
        state = "ended" if ended is not None else "stopped"
        if over is None and self._counted.status == "running":
            state = "running"
        total = started.payload["total"]
        kind = "solution_merged" if name == "merge" else "evaluated"
        done = self._storage.n_events(self._study_id, kind, after=started.id)
        if over is not None:
            done -= self._storage.n_events(self._study_id, kind, after=over.id)
        done += started.payload["n_stored"] if name != "merge" else 0
        per_minute = left_s = None
        if state == "running":
            per_minute = self._per_minute(started)
            left_s = self._left_s(name, started, done, total, per_minute)
        return Phase(
            name,
            state,
            n,
            **counts,
            done=done,
            total=total,
            ending=None if ended is None else ended.payload["ending"],
            per_minute=per_minute,
            left_s=left_s,
        )

    def _per_minute(self, started: EventRecord) -> float | None:
        """Return the pace of the last evaluations since the phase began."""
        times = self._times("evaluated", started, RECENT_EVALUATIONS)
        span = times[-1] - times[0] if len(times) > 1 else 0.0
        return 60 * (len(times) - 1) / span if span > 0 else None

    def _left_s(
        self,
        name: str,
        started: EventRecord,
        done: int,
        total: int | None,
        per_minute: float | None,
    ) -> float | None:
        """Return how long a running phase goes on: to its total, or to the first rule."""
        left = self._budget_left(per_minute)
        if name == "merge":
            times = [_time(started), *self._times("solution_merged", started, RECENT_SOLUTIONS)]
            times = times[-RECENT_SOLUTIONS:]
            if total is not None and len(times) > 1:
                each = (times[-1] - times[0]) / (len(times) - 1)
                left.append(each * max(0, total - done))
        elif total is not None and per_minute is not None:
            left.append(60 * max(0, total - done) / per_minute)
        if name == "search":
            left += self._generations_left()
        return min(left, default=None)

    def _budget_left(self, per_minute: float | None) -> list[float]:
        """Return how long each rule lets the whole study go on."""
        left = []
        if self._budget.evaluations is not None and per_minute is not None:
            left.append(60 * max(0, self._budget.evaluations - self._counted.n()) / per_minute)
        if self._budget.wall_time_s is not None and self._opened is not None:
            left.append(max(0.0, _time(self._opened) + self._budget.wall_time_s - self._now))
        return left

    def _generations_left(self) -> list[float]:
        """Return how long the remaining generations take, where their number is the rule."""
        ended = self._storage.events(
            self._study_id, kinds=("generation_ended",), limit=RECENT_GENERATIONS, newest=True
        )
        if self._budget.generations is None or not ended:
            return []
        each = sum(e.payload["elapsed_s"] for e in ended) / len(ended)
        return [each * max(0, self._budget.generations - ended[-1].payload["index"])]

    def _times(self, kind: str, started: EventRecord, limit: int) -> list[float]:
        events = self._storage.events(
            self._study_id, kinds=(kind,), after=started.id, limit=limit, newest=True
        )
        return sorted(map(_time, events))


def _time(event: EventRecord) -> float:
    return datetime.fromisoformat(event.created_at).timestamp()


def _plain(event: EventRecord) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": event.created_at,
        "kind": event.kind,
        "text": in_words(event),
        "payload": dict(event.payload),
    }


def _reason(counted: StudySummary, last: Sequence[EventRecord]) -> str | None:
    """Return why a study does not run: what its process said, or what it was at when it died."""
    if counted.status in ("running", "finished"):
        return None
    if counted.status != "crashed":
        return counted.record.reason
    said = [counted.record.activity, counted.last_event, *last[-1:]]
    known = sorted((e for e in said if e is not None), key=lambda e: e.created_at)
    if not known:
        return f"its process, {counted.record.owner}, died before it said anything"
    return f"last: {in_words(known[-1])}, {known[-1].created_at[11:19]}"
