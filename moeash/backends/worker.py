"""What a worker does: hold one evaluator and answer calls. Knows nothing of Ray.

What every candidate needs is made once per study, by the first worker, and handed to the others,
who see the same read-only memory: the float state, the method's arrays and the search images. So
are the float network's measurements, which order the images: every worker visits them in the very
same order even where rounding differs.
"""

import importlib.metadata
import os
import platform
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moeash import __version__
from moeash.errors import BackendError
from moeash.names import contained
from moeash.runtime.collecting import uncollected

if TYPE_CHECKING:
    from moeash.backends.base import Baseline
    from moeash.evaluation.evaluate import Common
    from moeash.evaluation.outcome import Archive, Job
    from moeash.evaluation.task import Task

VERSIONED = ("torch", "numpy")
"""Packages whose versions must agree between the driver and its workers, beside moeash's own."""


def versions() -> dict[str, str]:
    """Return the versions that numbers depend on; build tags as +cpu are left out."""
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in VERSIONED}
    python = ".".join(platform.python_version_tuple()[:2])
    return {"moeash": __version__, **found, "python": python}


@dataclass(frozen=True)
class Place:
    """Where a worker is.

    Attributes:
        host: of the node.
        pid: of the process.
        gpus: what ``CUDA_VISIBLE_DEVICES`` says; None when unset.
    """

    host: str
    pid: int
    gpus: str | None

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Folder:
    """The driver's working folder, in which Ray has workers look for modules before all others.

    Attributes:
        path: of the folder.
        place: where the driver looks there: first, as Ray has it, after all others, or never.
    """

    path: str
    place: Literal["first", "last", "never"]

    @classmethod
    def here(cls) -> "Folder":
        """Return the working folder of this process."""
        path = str(Path.cwd())
        places = [place or path for place in sys.path]
        if path not in places:
            return cls(path, "never")
        before_python = places[: places.index(str(Path(os.__file__).parent))]
        return cls(path, "first" if path in before_python else "last")

    def rearrange(self) -> None:
        """Have this process look there when the driver does: a numpy.py there is not NumPy."""
        if self.place == "first":
            return
        sys.path[:] = [place for place in sys.path if place != self.path]
        if self.place == "last":
            sys.path.append(self.path)


@dataclass(frozen=True)
class Call:
    """One call to a worker.

    Attributes:
        kind: evaluate a job, or build the shared weights of its recipe.
        job: the job.
        archive: what an evaluation has to beat; None to build.
    """

    kind: Literal["evaluate", "build"]
    job: "Job"
    archive: "Archive | None" = None

    def __str__(self) -> str:
        return str(self.job.recipe)


@dataclass(frozen=True)
class Pulse:
    """The last a worker has told of how far it is.

    Attributes:
        number: of the telling, of all this worker's.
        what: it does, in words.
        done: units of that which are done.
        total: units of that in all; None where nobody knows.
    """

    number: int
    what: str
    done: int
    total: int | None


class EvaluationWorker:
    """One evaluator in a process of its own."""

    def __init__(self, n_threads: int, folder: Folder | None = None) -> None:
        """Import what evaluations need and pin its threads, before torch starts any.

        Args:
            n_threads: of torch.
            folder: the driver's working folder.
        """
        if folder is not None:
            folder.rearrange()
        with uncollected():
            import torch

        torch.set_num_threads(n_threads)
        torch.set_num_interop_threads(1)
        self._pulse: Pulse | None = None
        self._n_pulses = 0

    @contained()  # Ray takes SystemExit as a worker's own wish to end
    def load(
        self, task: "Task", common: "Common | None", expected: Mapping[str, str]
    ) -> tuple["Baseline", Place]:
        """Load the task.

        Args:
            task: what to evaluate.
            common: what another worker made; None for the first one.
            expected: versions of the driver.

        Raises:
            BackendError: this worker has other versions.
            MoeashError: the network, the data or the method refuse.
        """
        differing = [
            f"{name} {expected[name]} (here {version})"
            for name, version in versions().items()
            if expected[name] != version
        ]
        if differing:
            raise BackendError(
                f"worker on {socket.gethostname()} needs {', '.join(differing)}; "
                "install the same versions on every node"
            )
        with uncollected():
            from moeash.backends.inprocess import describe
            from moeash.evaluation.evaluate import Evaluator

        self.evaluator = Evaluator(task, common=common, progress=self._progress)
        place = Place(socket.gethostname(), os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        return describe(self.evaluator), place

    @contained()
    def common(self) -> "Common":
        """Return what the other workers need not make or read again."""
        return self.evaluator.common()

    def use_shared(self, common: "Common") -> None:
        """Use the shared copy of what this worker made, and let its own go."""
        self.evaluator.use_shared(common)

    @contained()
    def answer(self, kind: str, job: "Job", archive: "Archive") -> Any:
        """Evaluate a job to its outcome, or build its shared weights."""
        self._pulse = None
        if kind == "build":
            return self.evaluator.compressor.build(job.recipe, start=job.start)
        return self.evaluator.evaluate(job, archive, self._progress)

    def pulse(self) -> Pulse | None:
        """Return the last that what runs now has told; asked from another thread."""
        return self._pulse

    def _progress(self, what: str, done: int, total: int | None) -> None:
        self._n_pulses += 1
        self._pulse = Pulse(self._n_pulses, what, done, total)
