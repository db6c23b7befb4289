"""What the service answers with, as documents that its description names."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from moeash.core.histogram import Histogram
from moeash.study.facts import StudyFacts
from moeash.study.solution import Solution
from moeash.study.storage.records import EvaluationRecord, GenerationRecord
from moeash.study.storage.team.standings import Standing


class Body(BaseModel):
    """What is sent to the service: nothing but what its description says, of just those types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StudyItem(BaseModel):
    """A study in a list.

    Attributes:
        name: unique in the storage.
        status: where it stands; ``queued`` before its process was started.
        reason: why it does not run, in one line.
        method: name of the method.
        network: where the network comes from.
        dataset: where the data comes from.
        metric_name: of the metric; None before the study is stored.
        baseline: the float network's metric.
        original_bytes: float32 bytes of its state.
        max_drop: the drop that is wanted.
        evaluations: stored.
        complete: of them.
        stopped: of them.
        failed: of them.
        generations: stored.
        planned: evaluations of the search, where the spec says how many.
        hypervolume: of the last generation.
        sparkline: course of the hypervolume, at most 40 values.
        smallest_bytes: the smallest wanted file.
        workers: that live.
        phase: ``search``, ``refine`` or ``merge`` while it runs.
        doing: what is being done now, in words.
        queue_position: 1 for the next; None unless it is queued.
        tags: of people.
        archived: out of the way.
        created_at: UTC, ISO 8601.
        updated_at: UTC, ISO 8601.
    """

    name: str
    status: Standing
    reason: str | None = None
    method: str | None = None
    network: str | None = None
    dataset: str | None = None
    metric_name: str | None = None
    baseline: float | None = None
    original_bytes: int | None = None
    max_drop: float | None = None
    evaluations: int = 0
    complete: int = 0
    stopped: int = 0
    failed: int = 0
    generations: int = 0
    planned: int | None = None
    hypervolume: float | None = None
    sparkline: list[float] = []
    smallest_bytes: int | None = None
    workers: int = 0
    phase: str | None = None
    doing: str | None = None
    queue_position: int | None = None
    tags: list[str] = []
    archived: bool = False
    created_at: str
    updated_at: str


class StudyPage(BaseModel):
    """A page of studies; ``next`` is the cursor of the next one."""

    items: list[StudyItem]
    next: str | None
    total: int


class StudyDetail(StudyItem):
    """A study by itself: what a list says, its spec, its phases and what failed.

    Attributes:
        toml: the spec as a file.
        spec: the spec as JSON.
        notes: Markdown.
        pins: numbers of pinned solutions.
        front_size: solutions on the front.
        ending: why the search ended.
        phases: as ``moeash status --json`` says them.
        left_s: seconds until the present phase ends; None where that cannot be told.
        errors: the failures, a hundred at most.
        retriable: failures that say nothing about their candidates.
        remeasured_baseline: the float network's metric with BatchNorms measured again.
        n_shared: shared weights.
        n_kept: kept elements.
        space: the variables that were searched, within their bounds.
        notices: what the newest run noted: splits that overlap, a front that a bound cuts.
        objectives: names of the sizes that are minimised.
        variables: names of the search's variables that occur.
        environment: versions, threads and device.
        evaluations_per_minute: at present.
    """

    toml: str
    spec: dict[str, Any]
    notes: str = ""
    pins: list[int] = []
    front_size: int = 0
    ending: str | None = None
    phases: list[dict[str, Any]] = []
    left_s: float | None = None
    errors: list[dict[str, Any]] = []
    retriable: int = 0
    remeasured_baseline: float | None = None
    n_shared: int | None = None
    n_kept: int | None = None
    space: list[dict[str, Any]] = []
    notices: list[str] = []
    objectives: list[str] = []
    variables: list[str] = []
    environment: dict[str, Any] = {}
    evaluations_per_minute: float | None = None


class SolutionDocument(BaseModel):
    """A complete evaluation.

    Attributes:
        id: its number in the study.
        recipe: its name: a candidate and the steps taken after it.
        text: the recipe in words.
        stage: ``search``, ``refined`` or ``merged``.
        metric: on the search split.
        metric_name: of the metric.
        drop: below the float network.
        noise: standard error of the drop, of an accuracy; None where it is too small to matter.
        cautious_drop: how far below it may well be on other images; what limits are held against.
        size_bytes: of the file.
        ratio: float32 bytes over bytes of the file.
        entries: of the codebook that some weight uses.
        bits_per_weight: of the indices.
        generation: of the search.
        parent: number of the solution it was made of.
        fingerprint: of the shared weights.
        on_front: whether nothing dominates it.
    """

    id: int
    recipe: dict[str, Any]
    text: str
    stage: str
    metric: float
    metric_name: str
    drop: float
    noise: float | None
    cautious_drop: float
    size_bytes: int
    ratio: float
    entries: int
    bits_per_weight: float
    generation: int
    parent: int | None
    fingerprint: str | None
    on_front: bool


class SolutionDetail(SolutionDocument):
    """A solution by itself.

    Attributes:
        parents: the solutions it was made of, the nearest first.
        histogram: of the float weights, in the units that its codebook's entries have.
    """

    parents: list[SolutionDocument]
    histogram: Histogram | None


class Front(BaseModel):
    """The front, smallest file first, as it is or as it was after a generation."""

    items: list[SolutionDocument]
    generation: int | None
    hypervolume: float | None


class Points(BaseModel):
    """Points of a chart as columns of one length, by number.

    Attributes:
        numbers: of the evaluations.
        stage: of each.
        status: of each: ``complete``, or ``stopped`` with the bound as its metric.
        size_bytes: of each.
        metric: of each.
        generation: of each.
        worker: of each, as an index into ``workers``; -1 where nobody knows.
        workers: names of those who evaluated these points.
        front: numbers of the whole front.
        shown: points given.
        total: points there are, of those asked for.
        drawable: points there are in all: more than a page knows when a failure was tried again.
        last: the highest number there is: ask for points after it.
    """

    numbers: list[int]
    stage: list[str]
    status: list[str]
    size_bytes: list[int]
    metric: list[float]
    generation: list[int]
    worker: list[int]
    workers: list[str]
    front: list[int]
    shown: int
    total: int
    drawable: int
    last: int


class Pause(BaseModel):
    """A time in which no worker evaluated anything, cut out of a timeline.

    Attributes:
        at_s: where it would be.
        length_s: how long it was.
    """

    at_s: float
    length_s: float


class WorkerRow(BaseModel):
    """What one worker evaluated, as bars.

    Attributes:
        worker: its name.
        evaluations: in all.
        failed: of them.
        busy_s: seconds it spent on them.
        alive_s: seconds from the beginning of its first to the end of its last, without pauses.
        utilisation: ``busy_s`` of ``alive_s``.
        start_s: of each bar, in seconds from the beginning of the timeline.
        end_s: of each bar.
        share: of the time between, that it was busy for.
        number: of each bar's evaluation; None where bars stand for more than one.
    """

    worker: str
    evaluations: int
    failed: int
    busy_s: float
    alive_s: float
    utilisation: float
    start_s: list[float]
    end_s: list[float]
    share: list[float]
    number: list[int] | None


class Timeline(BaseModel):
    """The evaluations of a study by worker.

    Attributes:
        began_at_s: when the first began, in seconds since 1970; None before there is one.
        length_s: to the end of the last, without pauses.
        pauses: that were cut out.
        items: workers in the order they began, at most as many as were asked for.
        workers: in all.
        lost: evaluations of which no worker is known: theirs was lost, or nobody wrote it down.
    """

    began_at_s: float | None
    length_s: float
    pauses: list[Pause]
    items: list[WorkerRow]
    workers: int
    lost: int


class EvaluationDocument(BaseModel):
    """An evaluation: complete, stopped or failed."""

    id: int
    recipe: dict[str, Any]
    text: str
    stage: str
    status: str
    metric: float | None
    bound: float | None
    drop: float | None
    noise: float | None
    size_bytes: int | None
    entries: int | None
    bits_per_weight: float | None
    ratio: float | None
    generation: int
    parent: int | None
    duration_s: float
    error: str | None
    retriable: bool
    on_front: bool
    created_at: str
    worker: str | None
    ended_at: str | None


class EvaluationPage(BaseModel):
    """A page of evaluations; ``next`` is the cursor of the next one."""

    items: list[EvaluationDocument]
    next: str | None
    total: int


class Generations(BaseModel):
    """All generations of a study."""

    items: list[GenerationRecord]


class EventDocument(BaseModel):
    """A stored event."""

    id: int
    at: str
    kind: str
    text: str
    payload: dict[str, Any]


class EventPage(BaseModel):
    """A page of events; ``next`` is the id to ask after."""

    items: list[EventDocument]
    next: int | None


class PickDocument(BaseModel):
    """What a rule takes from the front, and the command that takes the same."""

    solution: SolutionDocument | None
    reason: str | None
    command: str


def solution_document(solution: Solution, front: Sequence[int]) -> SolutionDocument:
    """Return a solution as a document."""
    return SolutionDocument(
        **solution.as_dict(),
        text=str(solution.recipe),
        cautious_drop=solution.cautious_drop,
        on_front=solution.id in front,
    )


def evaluation_document(
    facts: StudyFacts, record: EvaluationRecord, front: Mapping[int, Any] | set[int]
) -> EvaluationDocument:
    """Return an evaluation as a document."""
    outcome, sizes = record.outcome, record.outcome.sizes
    bound = outcome.bound
    return EvaluationDocument(
        id=record.number,
        recipe=record.recipe.as_dict(),
        text=str(record.recipe),
        stage=record.stage,
        status=outcome.status,
        metric=outcome.metric,
        bound=None if bound is None or abs(bound) == float("inf") else bound,
        drop=None if outcome.metric is None else facts.baseline - outcome.metric,
        noise=outcome.noise,
        size_bytes=None if sizes is None else sizes.size_bytes,
        entries=None if sizes is None else sizes.entries,
        bits_per_weight=None if sizes is None else sizes.bits_per_weight,
        ratio=None if sizes is None else facts.original_bytes / sizes.size_bytes,
        generation=record.generation,
        parent=record.parent,
        duration_s=outcome.duration_s,
        error=outcome.error,
        retriable=outcome.retriable,
        on_front=record.number in front,
        created_at=record.created_at,
        worker=outcome.worker,
        ended_at=outcome.ended_at,
    )
