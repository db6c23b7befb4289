"""The artifact a recipe begins with: files of solutions that cannot be rebuilt in seconds."""

from collections.abc import Callable, Mapping

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.study.storage.records import EvaluationRecord

Build = Callable[[Recipe], SharedWeights]
"""Returns the shared weights of a recipe of one study."""


def start_of(
    recipe: Recipe,
    known: Mapping[str, EvaluationRecord],
    read: Callable[[str], bytes],
) -> bytes | None:
    """Return the artifact of a recipe without its merges; None where there is none.

    Args:
        recipe: to be built.
        known: stored evaluations by key, of a method that keeps artifacts.
        read: returns the artifact of a fingerprint.
    """
    steps = tuple(step for step in recipe.steps if not isinstance(step, Merge))
    record = known.get(Recipe(recipe.candidate, steps).key)
    if record is None or record.outcome.fingerprint is None:
        return None
    return read(record.outcome.fingerprint)
