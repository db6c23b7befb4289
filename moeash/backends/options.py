"""Where candidates are evaluated, and on how much."""

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from moeash.errors import InputError
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, NotNegative, Options, Positive


@dataclass(frozen=True)
class BackendOptions(Options):
    """``[backend]``.

    Attributes:
        kind: inprocess is this one process, ray is workers on Ray.
        address: auto or HOST:PORT of a Ray head; default: a Ray of the study's own.
        workers: a fixed number, or [low, high]: as many as there is work for, those above low
            released between generations; default: as many as there is room for.
        cpus_per_worker: CPUs reserved for a worker; default: evaluation.threads, or 1.
        gpus_per_worker: GPUs reserved for a worker; 0.5: two share one.
        timeout_s: seconds a try of a candidate may take without a sign of progress.
        max_tries: tries after which a candidate has failed.
    """

    table: ClassVar[str] = "backend"

    kind: Literal["inprocess", "ray"] = "inprocess"
    address: str | None = None
    workers: Count | tuple[Annotated[int, Bounds(0)], Count] | None = None
    cpus_per_worker: Positive | None = None
    gpus_per_worker: NotNegative = 0.0
    timeout_s: Positive = 3600.0
    max_tries: Count = 3

    def check(self) -> None:
        """Refuse options of Ray without it, a range that is none, and parts of several GPUs."""
        if self.kind == "inprocess":
            named = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            if named:
                verb = "needs" if len(named) == 1 else "need"
                listed = ", ".join(f"backend.{name}" for name in named)
                raise InputError(f"{listed} {verb} backend.kind = 'ray'")
        if isinstance(self.workers, tuple) and self.workers[0] > self.workers[1]:
            raise InputError(
                f"backend.workers is {list(self.workers)}, needed [low, high] with low <= high"
            )
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise InputError(
                f"backend.gpus_per_worker is {self.gpus_per_worker:g}, needed a whole number above "
                "1, or a part of one GPU"
            )

    @property
    def fewest_workers(self) -> int | None:
        """Workers kept even when idle; None: all."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most_workers(self) -> int | None:
        """Workers at most; None: as many as there is room for."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers
