"""A study as a study of Optuna, for its dashboard and plots.

Every evaluation is a trial with the candidate's values as parameters: complete ones with their
objectives, those that were stopped early as pruned, failed ones as failed. What else is known of an
evaluation is in the trial's user attributes.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from moeash import __version__
from moeash.core.plain import json_text
from moeash.errors import ExportError
from moeash.study.storage.engines.urls import without_password
from moeash.study.storage.records import EvaluationRecord
from moeash.study.study import Study

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
"""What Optuna calls how an evaluation ended."""


def export_optuna(study: Study, url: str, *, name: str | None = None) -> int:
    """Write a study into a storage of Optuna, all of it or nothing.

    Args:
        study: the study.
        url: of the storage, such as ``sqlite:///optuna.db``; made where it does not exist.
        name: of Optuna's study; default: that of the study.

    Returns:
        Number of trials.

    Raises:
        ExportError: Optuna is not installed, its storage cannot be written or forgets what is, or
            there is a study of that name.
    """
    try:
        import optuna
    except ImportError as exc:
        raise ExportError(
            "this needs Optuna; install it with: pip install 'moeash[optuna]'"
        ) from exc

    name = study.name if name is None else name
    facts = study.facts
    records = study.evaluations()
    trials = _trials(study, records)
    with _quiet(optuna), _border(optuna, url, name):
        target = optuna.create_study(
            storage=url,
            study_name=name,
            directions=[
                optuna.study.StudyDirection.MAXIMIZE,
                *[optuna.study.StudyDirection.MINIMIZE] * len(facts.objectives),
            ],
        )
        try:
            target.set_metric_names([facts.metric_name, *facts.objectives])
            for key, value in _attributes_of_study(study).items():
                target.set_user_attr(key, value)
            target.add_trials(trials)
        except BaseException:
            optuna.delete_study(study_name=name, storage=url)
            raise
        _check_stored(optuna, url, name, len(trials))
    return len(trials)


def _check_stored(optuna: Any, url: str, name: str, n_trials: int) -> None:
    """Read a study back over another connection: a storage in memory has forgotten it by then."""
    try:
        n_found = len(optuna.load_study(study_name=name, storage=url).trials)
    except KeyError:
        n_found = 0
    if n_found != n_trials:
        raise ExportError(
            f"{without_password(url)!r} holds {n_found} of the {n_trials} trials that were "
            "written; a storage in memory forgets them, name a file or a server"
        )


def _attributes_of_study(study: Study) -> dict[str, Any]:
    facts = study.facts
    return {
        "moeash": __version__,
        "baseline": facts.baseline,
        "original_bytes": facts.original_bytes,
        "network_fingerprint": facts.network_fingerprint,
        "data_fingerprint": facts.data_fingerprint,
    }


def _trials(study: Study, records: Sequence[EvaluationRecord]) -> list["FrozenTrial"]:
    from optuna.trial import FrozenTrial, TrialState

    distributions = _distributions([record.candidate.as_dict() for record in records])
    front = set(study.front_numbers())
    trials = []
    for number, record in enumerate(records):
        outcome, params = record.outcome, record.candidate.as_dict()
        values = None
        if outcome.status == "complete":
            assert outcome.metric is not None and outcome.sizes is not None
            values = [outcome.metric, *map(float, outcome.sizes.vector(study.facts.objectives))]
        end = datetime.fromisoformat(outcome.ended_at or record.created_at)
        trials.append(
            FrozenTrial(
                number=number,
                trial_id=number,  # Optuna gives its own
                state=TrialState[STATES[outcome.status]],
                value=None,
                values=values,
                datetime_start=_local(end - timedelta(seconds=outcome.duration_s)),
                datetime_complete=_local(end),
                params=params,
                distributions={key: distributions[key] for key in params},
                user_attrs=_attributes_of(study, record, on_front=record.number in front),
                system_attrs={},
                intermediate_values={},
            )
        )
    return trials


def _attributes_of(study: Study, record: EvaluationRecord, *, on_front: bool) -> dict[str, Any]:
    outcome, sizes = record.outcome, record.outcome.sizes
    found = {
        "id": record.number,
        "phase": record.stage,
        "on_front": on_front,
        study.facts.metric_name: outcome.metric,
        "bound": outcome.bound,
        "bytes": None if sizes is None else sizes.size_bytes,
        "entries": None if sizes is None else sizes.entries,
        "bits_per_weight": None if sizes is None else sizes.bits_per_weight,
        "recipe": record.recipe.as_dict(),
        "generation": record.generation,
        "parent": record.parent,
        "fingerprint": outcome.fingerprint,
        "n_batches": outcome.n_batches,
        "error": outcome.error,
        "worker": outcome.worker,
    }
    known: dict[str, Any] = json.loads(json_text(found))
    return {key: value for key, value in known.items() if value is not None}


def _distributions(
    candidates: Sequence[Mapping[str, int | float | str]],
) -> dict[str, "BaseDistribution"]:
    """Return what holds all values of each variable, which may be more than is searched now."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    values: dict[str, list[Any]] = {}
    for candidate in candidates:
        for key, value in candidate.items():
            values.setdefault(key, []).append(value)
    distributions: dict[str, BaseDistribution] = {}
    for key, found in values.items():
        if all(isinstance(value, int) for value in found):
            distributions[key] = IntDistribution(min(found), max(found))
        elif all(isinstance(value, int | float) for value in found):
            distributions[key] = FloatDistribution(min(found), max(found))
        else:
            distributions[key] = CategoricalDistribution(sorted(set(found), key=str))
    return distributions


def _local(moment: datetime) -> datetime:
    """Return a moment as Optuna writes it: the local time, without its zone."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone().replace(tzinfo=None)


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna from telling on stderr what moeash tells."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _border(optuna: Any, url: str, name: str) -> Iterator[None]:
    shown = without_password(url)
    try:
        yield
    except ExportError:
        raise
    except optuna.exceptions.DuplicatedStudyError as exc:
        raise ExportError(
            f"{shown!r} has an Optuna study {name!r} already; give another name, or delete that one"
        ) from exc
    except Exception as exc:
        # What its storage raises is of any type: its own, SQLAlchemy's, a driver's.
        reason = str(exc).replace(url, shown).splitlines()[0] if str(exc) else ""
        raise ExportError(
            f"Optuna cannot write to {shown!r}: {type(exc).__name__}: {reason}"
        ) from exc
