"""The artifact a recipe begins with: files of solutions that cannot be rebuilt in seconds."""

from collections.abc import Callable

from moeash.core.codebook import SharedWeights
from moeash.core.solutions.recipe import Recipe, Start
from moeash.study.storage.records import EvaluationRecord

Build = Callable[[Recipe], SharedWeights]
"""Returns the shared weights of a recipe of one study."""


def start_of(
    recipe: Recipe,
    find: Callable[[str], EvaluationRecord | None],
    read: Callable[[str], bytes],
    *,
    keeps_artifacts: bool,
) -> Start | None:
    """Return the longest stored part of a recipe, from its candidate on; None where there is none.

    Args:
        recipe: to be built.
        find: returns the stored evaluation of a key; asked only where there may be a file.
        read: returns the artifact of a fingerprint.
        keeps_artifacts: whether the method does.
    """
    for n_steps in range(len(recipe.steps), -1, -1):
        part = Recipe(recipe.candidate, recipe.steps[:n_steps])
        if not part.has_artifact(keeps_artifacts=keeps_artifacts):
            continue
        record = find(part.key)
        if record is not None and record.outcome.fingerprint is not None:
            return Start(n_steps, read(record.outcome.fingerprint))
    return None
