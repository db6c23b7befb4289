"""Where candidates are evaluated, on how much, and how long to wait for it."""

from dataclasses import dataclass, fields
from typing import Literal

from moeash.errors import InputError


@dataclass(frozen=True)
class BackendOptions:
    """``[backend]``: where candidates are evaluated.

    Attributes:
        kind: this one process, or workers on Ray.
        address: auto or HOST:PORT of a Ray head; default: a Ray of the study's own.
        workers: a fixed number, or [fewest, most]: idle workers above the fewest are released;
            default: as many as there is room for.
        cpus_per_worker: CPUs reserved for a worker; default: evaluation.threads, or 1.
        gpus_per_worker: GPUs reserved; 0.5: two share one.
        timeout_s: wall time a candidate may take without a sign of progress.
        max_tries: tries after which a candidate has failed.
    """

    kind: Literal["inprocess", "ray"] = "inprocess"
    address: str | None = None
    workers: int | tuple[int, int] | None = None
    cpus_per_worker: float | None = None
    gpus_per_worker: float = 0.0
    timeout_s: float = 3600.0
    max_tries: int = 3

    def __post_init__(self) -> None:
        """Refuse values that contradict each other or mean nothing.

        Raises:
            InputError: names the option, what came and what was needed.
        """
        if self.kind not in ("inprocess", "ray"):
            raise InputError(f"kind = {self.kind!r} is neither 'inprocess' nor 'ray'")
        if self.kind == "inprocess":
            named = sorted(
                f.name
                for f in fields(self)
                if f.name != "kind" and getattr(self, f.name) != f.default
            )
            if named:
                raise InputError(f"{', '.join(named)} need kind = 'ray'")
        if isinstance(self.workers, list):  # as TOML and JSON give a pair
            object.__setattr__(self, "workers", tuple(self.workers))
        self._check_workers()
        for name in ("cpus_per_worker", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} = {value} must be above 0")
        if self.gpus_per_worker < 0:
            raise InputError(f"gpus_per_worker = {self.gpus_per_worker} must not be negative")
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise InputError(f"gpus_per_worker = {self.gpus_per_worker} above 1 must be whole")
        if self.max_tries < 1:
            raise InputError(f"max_tries = {self.max_tries} must be 1 or more")

    @property
    def fewest_workers(self) -> int | None:
        """Workers kept even when idle; None: all."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most_workers(self) -> int | None:
        """Workers at most; None: as many as there is room for."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers

    def _check_workers(self) -> None:
        if self.workers is None:
            return
        pair = self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)
        if len(pair) != 2 or not all(type(n) is int for n in pair):
            raise InputError(f"workers = {self.workers} must be a number or [fewest, most]")
        fewest, most = pair
        if most < 1 or fewest < 0:
            raise InputError(f"workers = {self.workers} must leave room for at least one worker")
        if fewest > most:
            raise InputError(
                f"workers = {list(pair)}: the fewest, {fewest}, is above the most, {most}"
            )
