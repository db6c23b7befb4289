"""Evaluate jobs that are all known beforehand."""

from collections.abc import Iterator, Sequence

from moeash.backends.base import Backend
from moeash.evaluation.outcome import Archive, Job, Outcome


def outcomes(
    backend: Backend, jobs: Sequence[Job], archive: Archive
) -> Iterator[tuple[int, Outcome]]:
    """Yield ``(position, outcome)`` of each job as it finishes.

    Args:
        backend: where they are evaluated; nothing else may be submitted to it meanwhile.
        jobs: all are submitted before the first one is waited for.
        archive: what they have to beat.
    """
    tickets = {backend.submit(job, archive): position for position, job in enumerate(jobs)}
    while tickets:
        ticket, outcome = backend.next()
        yield tickets.pop(ticket), outcome
