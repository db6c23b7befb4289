"""Make the solutions a search has ended with again, with more effort, where the method has a way.

A method may know a slower way from the same candidate to better weights (see
:attr:`moeash.methods.base.Method.refines`), too slow for the hundreds of candidates of a search.
Here the solutions of the search's front take it, some of them: spread evenly along the front, both
ends included. What comes of it is evaluated and stored as any candidate is, in the order of the
front, and stands on the study's front beside the others or in their place.
"""

from collections.abc import Sequence

from moeash.backends.base import Backend
from moeash.core.recipe import Refine
from moeash.evaluation.outcome import Archive, Job
from moeash.methods.base import Method
from moeash.study.ledger import Ledger
from moeash.study.outcomes import outcomes
from moeash.study.progress import Progress
from moeash.study.storage.records import EvaluationRecord


def spread(n: int, at_most: int) -> list[int]:
    """Return ``min(n, at_most)`` positions of ``range(n)``, evenly spread, both ends included."""
    if n <= at_most:
        return list(range(n))
    if at_most == 1:
        return [n // 2]
    return [round(i * (n - 1) / (at_most - 1)) for i in range(at_most)]


def refine(
    front: Sequence[EvaluationRecord],
    method: Method,
    at_most: int,
    *,
    backend: Backend,
    ledger: Ledger,
    progress: Progress,
    archive: Archive,
    floor: float,
) -> list[EvaluationRecord]:
    """Evaluate refined candidates of a front, those not stored yet.

    Args:
        front: the search's, smallest first.
        method: says what a candidate's refined one is.
        at_most: so many.
        backend: where they are evaluated.
        ledger: numbers and stores them.
        progress: hears of them.
        archive: what is known: an evaluation stops when something there is certainly better.
        floor: the metric below which a solution is not wanted.

    Returns:
        Their records, in the order of the front.
    """
    if not method.refines or not at_most:
        return []
    chosen = [front[i] for i in spread(len(front), at_most)]
    if not chosen:
        return []
    progress.refine_started(len(chosen))
    jobs = [Job(parent.job.recipe.then(Refine()), floor) for parent in chosen]
    missing = [i for i, job in enumerate(jobs) if ledger.propose(job) is None]

    for position, outcome in outcomes(backend, [jobs[i] for i in missing], archive):
        parent = chosen[missing[position]]
        ledger.record(
            jobs[missing[position]],
            outcome,
            stage="refined",
            generation=parent.generation,
            parent=parent.number,
        )
    return [ledger.known[job.key] for job in jobs]
