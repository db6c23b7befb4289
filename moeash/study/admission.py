"""Whether a study may be run under its name: a new one, or the same one as before.

A study is the same when its specification, without what says how long or where it runs, its network
and its search split are the same. Values measured on anything else must not mix.
"""

import platform
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from moeash.backends.base import Backend, Baseline
from moeash.errors import StudyExistsError, StudyNotFoundError
from moeash.evaluation.options import Precision
from moeash.evaluation.outcome import Archive, Job
from moeash.evaluation.task import Task
from moeash.networks.devices import name_of
from moeash.networks.sameness import SAME_FUNCTION, distance
from moeash.study.course.journal import Journal
from moeash.study.facts import StudyFacts, floor_of
from moeash.study.plan import Plan
from moeash.study.spec.spec import StudySpec
from moeash.study.storage.base import Storage
from moeash.study.storage.records import StudyRecord

ROUNDING: dict[Precision, float] = {"float32": SAME_FUNCTION, "tf32": 0.01, "bf16": 0.05}
"""How far rounding on another device may move outputs, relative to the largest."""
SAME_VALUE, TINY = 1e-3, 1e-6
"""How far rounding may move what is measured, relative and absolute, where outputs are the same or
are not seen."""
FLIPPED = 0.02
"""Likewise, absolute, where outputs are as good as the same: answers that were close decide for
another class, and a metric may count them."""
LOOKED_AT = 20
"""Candidates of which one is measured again, see :func:`_remeasured`."""


def stored_study(storage: Storage, plan: Plan) -> StudyRecord | None:
    """Return the stored study of a plan's name; None when there is none.

    Raises:
        StudyExistsError: it has another specification.
    """
    name = plan.spec.name
    try:
        record = storage.study(name)
    except StudyNotFoundError:
        return None
    if record.facts.fingerprint != plan.spec.fingerprint():
        raise StudyExistsError(
            f"study {name!r} exists with another specification ("
            + "; ".join(StudySpec.from_dict(record.facts.spec).differences(plan.spec))
            + "); give this one another name"
        )
    return record


def admit(
    storage: Storage,
    plan: Plan,
    task: Task,
    stored: StudyRecord | None,
    baseline: Baseline,
    backend: Backend,
    journal: Journal,
    *,
    accept_baseline: bool = False,
) -> StudyRecord:
    """Return the record of a study that may run now: a new one, or the stored one.

    Files that have moved and are the same are from now on where they were found.

    Raises:
        StudyExistsError: it was started on another network or on other images; or the network has
            the same weights and is another function, and ``accept_baseline`` does not say so.
    """
    if stored is None:
        return storage.create_study(_facts(plan, task, baseline))
    facts = stored.facts
    inputs = facts.inputs_fingerprint, baseline.inputs_fingerprint
    for what, was, now in (
        ("network's weights", facts.network_fingerprint, baseline.network_fingerprint),
        ("search split", facts.data_fingerprint, baseline.data_fingerprint),
        *((("calibration or training split", *inputs),) if None not in inputs else ()),
    ):
        if was != now:
            raise StudyExistsError(
                f"study {facts.name!r} was started on another {what} (fingerprint {was[:12]}, "
                f"now {now[:12]}); give this one another name"
            )
    changed = _change(facts, baseline, plan.spec.evaluation.precision)
    if changed is None and task.evaluate is not None and not plan.spec.method.trains:
        changed = _remeasured(storage, stored, backend)
    if changed is not None and not accept_baseline:
        raise StudyExistsError(
            f"study {facts.name!r} has values of another function: {changed}, which is more than "
            "rounding explains. Was the network's code or what measures it changed? "
            "Give this study another name, or mix old and new values with --accept-baseline "
            "(accept_baseline=True)"
        )
    if changed is not None or facts.baseline != baseline.metric:
        journal.note(
            f"the float network measures {baseline.metric} here, {facts.baseline} when the study "
            "began; "
            + (f"accepted, although {changed}" if changed else "rounding explains as much")
        )
    storage.set_status(stored.id, "running")
    # The same study with perhaps another budget, and files elsewhere: what it was run with last.
    spec = plan.spec.to_dict()
    if spec == facts.spec:
        return stored
    storage.set_spec(stored.id, spec)
    return replace(stored, facts=replace(facts, spec=spec))


def changed_outputs(
    facts: StudyFacts, sample: tuple[float, ...], precision: Precision
) -> str | None:
    """Return how outputs of the float network differ from when a study began.

    Args:
        facts: of the study.
        sample: as :func:`moeash.evaluation.assess.sample_of`.
        precision: of the passes.

    Returns:
        None: by rounding at most.
    """
    was, now = torch.tensor(facts.sample), torch.tensor(sample)
    if len(was) != len(now):
        return f"it has outputs of another shape ({len(now)} sampled, {len(was)} before)"
    moved = distance(was, now) if len(now) else 0.0
    if moved > ROUNDING[precision]:
        return f"its outputs have moved by {moved:.2g} of the largest"
    return None


def _change(facts: StudyFacts, baseline: Baseline, precision: Precision) -> str | None:
    """Return how the float network differs from when the study began; None: by rounding at most."""
    changed = changed_outputs(facts, baseline.sample, precision)
    if changed is not None:
        return changed
    # A sample is of a few images, and says nothing of the code that makes a metric of outputs.
    flipped = FLIPPED if baseline.sample != facts.sample else 0.0
    if not _same_value(baseline.metric, facts.baseline, flipped):
        return f"it measures {baseline.metric}, {facts.baseline} before"
    return None


def _same_value(now: float, before: float, flipped: float = 0.0) -> bool:
    scale = max(abs(now), abs(before))
    return abs(now - before) <= SAME_VALUE * scale + TINY + flipped


def _remeasured(storage: Storage, stored: StudyRecord, backend: Backend) -> str | None:
    """Measure one stored candidate again, and return how it differs; None: by rounding at most.

    What a user's function says of the float network alone may be the same whatever has changed: a
    distance from its own outputs is always 0, and an agreement with them always 1. The candidate is
    the one in the middle of the first few, for the best of them may be as good as the float network
    and the worst may guess. Weights that come out otherwise than they did say nothing: rounding
    decides for other entries.
    """
    first = storage.evaluations(stored.id, stage="search", status="complete", limit=LOOKED_AT)
    if not first:
        return None
    record = sorted(first, key=lambda record: record.outcome.metric or 0.0)[len(first) // 2]
    backend.submit(Job(record.recipe), Archive(stored.facts.objectives))
    _, now = backend.next()
    before = record.outcome
    if now.status == "failed" and not now.retriable:
        found = f"nothing ({now.error})"
    elif now.metric is None or before.metric is None or now.fingerprint != before.fingerprint:
        return None
    else:
        found = f"{now.metric}"
        if _same_value(now.metric, before.metric):
            return None
    return f"evaluation {record.number} ({record.recipe}) measures {found}, {before.metric} before"


def _facts(plan: Plan, task: Task, baseline: Baseline) -> StudyFacts:
    spec = plan.spec
    worst: dict[str, float] = {
        "size_bytes": float(baseline.original_bytes),
        # One more, so that the candidate with the most has a share in the hypervolume.
        "entries": float(baseline.most_entries + 1),
        "bits_per_weight": 32.0,
    }
    # What is further below the float network is not wanted, so it has no share in the hypervolume.
    max_drop = spec.evaluation.max_drop
    metric = baseline.reference if max_drop is None else floor_of(baseline.metric, max_drop)
    return StudyFacts(
        name=spec.name,
        spec=spec.to_dict(),
        fingerprint=spec.fingerprint(),
        network_fingerprint=baseline.network_fingerprint,
        data_fingerprint=baseline.data_fingerprint,
        environment=environment(task),
        keeping=baseline.keeping.as_dict(),
        sample=baseline.sample,
        remeasured_baseline=baseline.remeasured,
        space=[variable.as_dict() for variable in baseline.space],
        inputs_fingerprint=baseline.inputs_fingerprint,
        histogram=None if baseline.histogram is None else baseline.histogram.as_dict(),
        metric_name=spec.evaluation.metric,
        baseline=baseline.metric,
        original_bytes=baseline.original_bytes,
        n_shared=baseline.n_shared,
        n_kept=baseline.n_kept,
        n_batches=baseline.n_batches,
        objectives=tuple(spec.search.objectives),
        reference=(metric, *(worst[name] for name in spec.search.objectives)),
    )


def environment(task: Task) -> dict[str, Any]:
    """Return what the numbers of a study were measured with."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "numpy", "pymoo")},
        "machine": platform.machine(),
        "device": name_of(task.evaluation.device),
        "threads": task.n_threads,
    }
