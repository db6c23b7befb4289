"""Records as rows and rows as records."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

from sqlalchemy import Row

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.outcome import Job, Outcome
from moeash.study.events import Event
from moeash.study.facts import StudyFacts
from moeash.study.storage.reading import checked
from moeash.study.storage.records import (
    EvaluationRecord,
    EventRecord,
    GenerationRecord,
    StudyRecord,
    now,
)
from moeash.study.storage.tables import EVALUATIONS, GENERATIONS, STUDIES


def stored_text(text: str) -> str:
    """Return a text without the one character that PostgreSQL's text cannot hold."""
    return text.replace("\0", "\\0")


LISTS = ("objectives", "reference", "sample")
"""Facts of several values: tuples, which JSON does not have."""


def key_of(job: Job) -> str:
    """Return the digest that stands for a job's recipe in an index."""
    return hashlib.blake2b(job.key.encode(), digest_size=16).hexdigest()


def facts_values(facts: StudyFacts) -> dict[str, Any]:
    """Return the columns of a study's facts."""
    values = {name: getattr(facts, name) for name in facts.__dataclass_fields__}
    return checked(STUDIES, values | {name: list(values[name]) for name in LISTS})


def evaluation_values(
    study_id: int, record: EvaluationRecord, kept: Collection[str]
) -> dict[str, Any]:
    """Return the columns of an evaluation; ``kept`` as for :func:`job_values`."""
    return {
        "study_id": study_id,
        "number": record.number,
        "stage": record.stage,
        "generation": record.generation,
        "parent": record.parent,
        "created_at": record.created_at,
        **job_values(record.job, record.outcome, kept),
    }


def job_values(job: Job, outcome: Outcome, kept: Collection[str]) -> dict[str, Any]:
    """Return the columns that a job and its outcome fill.

    Args:
        job: what was evaluated.
        outcome: what became of it.
        kept: the fingerprints under which artifacts are stored.
    """
    sizes = outcome.sizes
    values = {
        "key": key_of(job),
        "recipe": job.key,
        "floor": job.floor,
        "status": outcome.status,
        "metric": outcome.metric,
        "bound": outcome.bound,
        "noise": outcome.noise,
        "size_bytes": None if sizes is None else sizes.size_bytes,
        "entries": None if sizes is None else sizes.entries,
        "bits_per_weight": None if sizes is None else sizes.bits_per_weight,
        "fingerprint": outcome.fingerprint,
        "artifact": outcome.fingerprint if outcome.fingerprint in kept else None,
        "n_batches": outcome.n_batches,
        "duration_s": outcome.duration_s,
        "error": None if outcome.error is None else stored_text(outcome.error),
        "retriable": outcome.retriable,
        "worker": outcome.worker,
        "ended_at": outcome.ended_at,
    }
    return checked(EVALUATIONS, values)


def generation_values(study_id: int, generation: GenerationRecord) -> dict[str, Any]:
    """Return the columns of a generation."""
    values = {name: getattr(generation, name) for name in generation.__dataclass_fields__}
    return checked(GENERATIONS, {"study_id": study_id, **values})


def event_values(study_id: int, event: Event, created_at: str | None = None) -> dict[str, Any]:
    """Return the columns of a lasting event."""
    return {
        "study_id": study_id,
        "created_at": created_at or now(),
        "kind": event.kind,
        "payload": event.payload(),
    }


def study_of(row: Row[Any]) -> StudyRecord:
    """Return the record of a row of studies."""
    values = row._mapping
    plain = {name: values[name] for name in StudyFacts.__dataclass_fields__}
    plain |= {name: tuple(plain[name]) for name in LISTS}
    facts = StudyFacts(**plain)
    float(facts.wanted_floor)  # of the specification, which is read before anything checks it
    names = ("id", "status", "ending", "reason", "owner", "created_at", "updated_at")
    doing = values["activity"]
    return StudyRecord(
        facts=facts,
        activity=None if doing is None else EventRecord(id=0, **doing),
        **{name: values[name] for name in names},
    )


def outcome_of(row: Row[Any]) -> Outcome:
    """Return the outcome of a row of evaluations, or of held ones."""
    values, sizes = row._mapping, None
    if values["size_bytes"] is not None:
        sizes = Sizes(values["size_bytes"], values["entries"], values["bits_per_weight"])
    names = (
        "status",
        "metric",
        "bound",
        "noise",
        "fingerprint",
        "n_batches",
        "duration_s",
        "error",
        "retriable",
        "worker",
        "ended_at",
    )
    return Outcome(sizes=sizes, **{name: values[name] for name in names})


def held_of(row: Row[Any]) -> tuple[str, Outcome]:
    """Return the key of a row of held outcomes, and its outcome."""
    return row.recipe, outcome_of(row)


def evaluation_of(row: Row[Any]) -> EvaluationRecord:
    """Return the record of a row of evaluations."""
    values = row._mapping
    recipe = Recipe.from_dict(json.loads(values["recipe"]))
    if recipe.key != values["recipe"]:
        raise ValueError("its recipe is not written as recipes are")
    return EvaluationRecord(
        number=values["number"],
        stage=values["stage"],
        generation=values["generation"],
        parent=values["parent"],
        job=Job(recipe, values["floor"]),
        outcome=outcome_of(row),
        created_at=values["created_at"],
    )


def generation_of(row: Row[Any]) -> GenerationRecord:
    """Return the record of a row of generations."""
    values = row._mapping
    return GenerationRecord(**{n: values[n] for n in GenerationRecord.__dataclass_fields__})


def event_of(row: Row[Any]) -> EventRecord:
    """Return the record of a row of events."""
    return EventRecord(row.id, row.created_at, row.kind, row.payload)
