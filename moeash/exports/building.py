"""Build solutions of a study that ran elsewhere: no image of the search split is looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

from moeash.core.codebook import SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.recipe import Recipe
from moeash.evaluation.loading import compressor_of
from moeash.study.artifacts import Build, start_of
from moeash.study.plan import task_of
from moeash.study.study import Study


@contextmanager
def building(study: Study, progress: Progress = silent) -> Iterator[Build]:
    """Hold what builds a study's recipes.

    Args:
        study: with a spec from which its network can be loaded, or searched in this process.
        progress: hears how far preparing is, unless it was prepared before and kept.
    """
    task = task_of(study)
    known = {}
    if task.method.keeps_artifacts:
        known = {record.job.key: record for record in study.evaluations()}
    with compressor_of(task, progress) as compressor:

        def build(recipe: Recipe) -> SharedWeights:
            start = start_of(recipe, known, study.artifact)
            return compressor.build(recipe, start=start, progress=progress)

        yield build
