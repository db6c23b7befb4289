"""A backend of a thousand workers that costs nothing: the real driver, made-up evaluations."""

import hashlib

from moeash.backends.base import Baseline, ignore
from moeash.backends.pool import Pool
from moeash.backends.staff import Limits
from moeash.core.kept import Keeping
from moeash.core.progress import silent
from moeash.core.solutions.objectives import Sizes
from moeash.evaluation.outcome import Outcome
from tests.backends.crew import SimulatedCrew

BASELINE = Baseline(
    0.95, 0.0, 10, 4 * 10**6, 10**6, 100, "network", "data", Keeping(), space=(), most_entries=10**6
)


def made_up(job):
    """An accuracy on 1,000 images that rises with k and a size that does, with some luck."""
    k = int(job.recipe.candidate["k"])
    luck = int.from_bytes(hashlib.blake2b(job.key.encode(), digest_size=4).digest(), "big") / 2**32
    metric = round(0.95 * (1 - 20 / (k + 30)) - 0.05 * luck, 3)
    size_bytes = 1000 + 20 * k + int(500 * luck)
    return Outcome(
        "complete", metric, metric, Sizes(size_bytes, k, 2.0), job.key, 10, duration_s=1.0
    )


class SimulatedBackend:
    """Real scheduling, in simulated time unless another crew is given."""

    def __init__(self, n_workers, behave, crew=SimulatedCrew):
        self.crew = crew(behave, answer=made_up)
        self.crew.start_takes_s = 0.0
        limits = Limits(0, n_workers, timeout_s=1e9, max_tries=3, start_timeout_s=1e9)
        self.pool = Pool(self.crew, limits)
        self.n_workers = n_workers

    def open(self, notify=ignore, progress=silent):
        return BASELINE

    @property
    def n_slots(self):
        return self.n_workers

    @property
    def n_ready(self):
        return self.pool.n_ready

    @property
    def workers(self):
        return self.pool.n_alive

    def submit(self, job, archive):
        return self.pool.submit(job)

    def wait(self, n_slots):
        return self.pool.wait(n_slots)

    def next(self):
        return self.pool.next()

    def cancel(self, ticket):
        self.pool.cancel(ticket)

    def close(self):
        self.pool.close()
