"""Build solutions of a study that ran elsewhere; its search split is not needed again."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from moeash.core.codebook import SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.solutions.recipe import Recipe
from moeash.data.splits import load_splits
from moeash.errors import InputError
from moeash.evaluation.loading import compressor_of, load_network
from moeash.evaluation.task import Task
from moeash.networks.parameters import network_fingerprint
from moeash.study.artifacts import Build, start_of
from moeash.study.plan import task_of
from moeash.study.spec.spec import StudySpec
from moeash.study.storage.records import EvaluationRecord
from moeash.study.study import Study


@contextmanager
def building(study: Study, progress: Progress = silent) -> Iterator[Build]:
    """Hold what builds a study's recipes.

    Args:
        study: with a spec from which its network can be loaded, or searched in this process.
        progress: hears how far preparing is, unless it was prepared before and kept.

    Raises:
        InputError: files that have moved are not those of the study.
    """
    task = task_of(study)
    _check_moved(study, task)
    keeps = task.method.keeps_artifacts

    @cache
    def known() -> dict[str, EvaluationRecord]:
        return {record.job.key: record for record in study.evaluations()}

    def find(key: str) -> EvaluationRecord | None:
        return known().get(key)

    with compressor_of(task, progress) as compressor:

        def build(recipe: Recipe) -> SharedWeights:
            start = start_of(recipe, find, study.artifact, keeps_artifacts=keeps)
            return compressor.build(recipe, start=start, progress=progress)

        yield build


def _check_moved(study: Study, task: Task) -> None:
    """Refuse files that somebody says are the study's and are not."""
    facts, now = study.facts, study.spec
    stored = StudySpec.from_dict(facts.spec)
    if now.network.checkpoint != stored.network.checkpoint:
        found = network_fingerprint(load_network(task).state)
        _check_same("network.checkpoint", now.network.checkpoint, found, facts.network_fingerprint)
    if now.data is not None and stored.data is not None and now.data.root != stored.data.root:
        found = load_splits(now.data)["search"].fingerprint()
        _check_same("data.root", now.data.root, found, facts.data_fingerprint)


def _check_same(place: str, path: str | None, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{place} = {path!r} is not what the study was run with (fingerprint {found[:12]}, "
            f"was {expected[:12]}); give the path that the same files have now"
        )
