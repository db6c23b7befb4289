"""Workers as Ray actors: starting, calling and ending them, and what Ray's errors mean.

Actors have no restarts and no retries of their own: the pool decides. Of everything Ray can raise
only :mod:`moeash.backends.crew` events and BackendError leave this module.
"""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import ray
from ray import exceptions as ray_errors

from moeash.backends.base import Baseline
from moeash.backends.crew import (
    Answered,
    Beat,
    Cause,
    Event,
    Lost,
    Raised,
    Ready,
    StartFailed,
)
from moeash.backends.ray_health import Raylet
from moeash.backends.ray_settings import WAIT_STEP_S, worker_environment
from moeash.backends.worker import Call, EvaluationWorker, Folder, Place, versions
from moeash.errors import BackendError, InputError, MoeashError
from moeash.evaluation.evaluate import Common
from moeash.evaluation.outcome import Archive
from moeash.evaluation.task import Task

Answer = TypeVar("Answer")

PULSES = "pulses"
"""The actors' second thread, which answers while the first one works. NumPy and torch let go of the
interpreter while they compute, so an answer takes milliseconds."""

PULSE_S = 1.0
PULSES_A_SECOND = 50.0
"""A call that takes longer than :data:`PULSE_S` is asked how far it is, and again and again; with
many workers less often, so that asking does not keep the driver from its work."""

NODE_WORDS = ("node has died", "node was terminated", "node is dead", "node died", "preempted")


@contextmanager
def border() -> Iterator[None]:
    """Ray's errors stop here."""
    try:
        yield
    except (ray_errors.RayError, ConnectionError) as error:
        raise BackendError(f"Ray: {first_line(error)}") from error


class RayCrew:
    """Actors of one task on a connected Ray."""

    def __init__(
        self,
        task: Task,
        *,
        cpus: float,
        gpus: float,
        timeout_s: float,
        environment: Mapping[str, str],
    ) -> None:
        """Start nothing yet.

        Args:
            task: what to evaluate.
            cpus: CPUs a worker reserves.
            gpus: GPUs a worker reserves.
            timeout_s: a worker is asked how far it is several times within so long.
            environment: of the workers, beside what pins their threads.
        """
        assert task.n_threads is not None
        self.cpus, self.gpus = cpus, gpus
        self._threads = task.n_threads
        self._timeout_s = timeout_s
        self._make = ray.remote(concurrency_groups={PULSES: 1})(EvaluationWorker).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": {**worker_environment(task.n_threads), **environment}},
        )
        with border():
            self.raylet = Raylet()
            self._task: Any = ray.put(task)
        self._versions = versions()
        self._folder = Folder.here()
        self._common: Any = None
        self._archive: tuple[Archive, Any] | None = None
        self._actors: dict[int, Any] = {}
        self._spare: deque[Any] = deque()
        self._pending: dict[Any, int] = {}
        self._waiting_for: dict[int, Any] = {}
        self._loading: set[int] = set()
        # (since, worker, what it is at): to be asked how far it is, in the order of time.
        self._unasked: deque[tuple[float, int, Any]] = deque()
        self._asked: dict[Any, tuple[int, Any]] = {}
        self._heard: dict[int, int] = {}
        self.baseline: Baseline | None = None
        self.places: dict[int, Place] = {}

    # ------------------------------------------------------------------ the crew of a pool

    def start(self, worker: int) -> None:
        """Begin to start a worker."""
        with border():
            actor = self._spare.popleft() if self._spare else self._start_actor()
            self._actors[worker] = actor
            self._loading.add(worker)
            self._expect(worker, actor.load.remote(self._task, self._common, self._versions))

    def call(self, worker: int, payload: Call) -> None:
        """Begin a call on an idle worker."""
        with border():
            if payload.job.start is not None:
                self.raylet.check()  # what is large is shared
            archive = None if payload.archive is None else self._put_archive(payload.archive)
            actor = self._actors[worker]
            self._expect(worker, actor.answer.remote(payload.kind, payload.job, archive))

    def wait(self, timeout_s: float) -> Sequence[Event[Any]]:
        """Return what happened.

        Raises:
            RayLost: the Ray on this machine died.
        """
        timeout_s = min(timeout_s, WAIT_STEP_S)
        if not self._pending:
            time.sleep(timeout_s)
            return []
        with border():
            self._ask()
            references = [*self._pending, *self._asked]
            ready, _ = ray.wait(references, num_returns=1, timeout=timeout_s)
            if ready and len(references) > 1:
                # Whatever else is ready by now comes along: one look at a thousand references
                # then serves many answers.
                ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        events: list[Event[Any]] = []
        for reference in ready:
            if reference in self._asked:
                events += self._told(reference)
                continue
            worker = self._pending.pop(reference)
            del self._waiting_for[worker]
            loading = worker in self._loading
            self._loading.discard(worker)
            events.append(
                self._loaded(worker, reference) if loading else self._answered(worker, reference)
            )
        if any(isinstance(event, Lost | StartFailed) for event in events):
            self.raylet.check()  # workers end with it
        return events

    def kill(self, worker: int) -> None:
        """End a worker."""
        actor = self._actors.pop(worker, None)
        reference = self._waiting_for.pop(worker, None)
        self._pending.pop(reference, None)
        self._loading.discard(worker)
        self.places.pop(worker, None)
        self._heard.pop(worker, None)
        for asked in [asked for asked, (who, _) in self._asked.items() if who == worker]:
            del self._asked[asked]
        if actor is not None:
            _kill(actor)

    def why_not_starting(self) -> str:
        """Return one line on why workers may not be starting."""
        with border():
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            free = ray.available_resources()
        needed = {"CPU": self.cpus, "GPU": self.gpus}
        for name, amount in needed.items():
            largest = max((node.get(name, 0.0) for node in nodes), default=0.0)
            if largest < amount:
                return (
                    f"a worker needs {amount:g} {name}s but the largest node has {largest:g}; "
                    f"lower backend.{name.lower()}s_per_worker or add larger nodes"
                )
        room = ", ".join(f"{free.get(name, 0.0):g} {name}s" for name, n in needed.items() if n)
        return (
            f"{room} of the cluster are free, and a worker needs "
            + ", ".join(f"{n:g} {name}s" for name, n in needed.items() if n)
            + "; free some or add nodes"
        )

    def now(self) -> float:
        """Return a monotonic time."""
        return time.monotonic()

    # ------------------------------------------------------------------ beyond a crew

    def fits(self) -> bool:
        """Tell whether some node is large enough for one worker."""
        with border():
            return any(
                node["Resources"].get("CPU", 0.0) >= self.cpus
                and node["Resources"].get("GPU", 0.0) >= self.gpus
                for node in ray.nodes()
                if node["Alive"]
            )

    def begin_spares(self, n: int) -> None:
        """Let further actors import what they need while the first one prepares."""
        with border():
            self._spare.extend(self._start_actor() for _ in range(n))

    def share_common(self) -> None:
        """Put what the first worker made where all workers of a node see the same memory.

        The driver owns it, so it outlives the worker that made it.
        """
        started = (actor for worker, actor in self._actors.items() if worker in self.places)
        actor = next(started, None)
        if actor is None:
            raise BackendError("the worker that prepared the study is gone; run it again")
        with border():
            common: Common = ray.get(actor.common.remote())
            self.raylet.check()
            self._common = ray.put(common)
            ray.get(actor.use_shared.remote(self._common))

    def ask(self, question: Callable[[EvaluationWorker], Answer]) -> list[Answer]:
        """Return what all idle workers answer to a question about themselves, asked over there."""
        with border():
            answers: list[Answer] = ray.get(
                [actor.__ray_call__.remote(question) for actor in self._actors.values()]
            )
        return answers

    def close(self) -> None:
        """Forget everything shared."""
        while self._spare:
            _kill(self._spare.popleft())
        self._common = self._task = self._archive = None

    # ------------------------------------------------------------------ details

    def _start_actor(self) -> Any:
        return self._make.remote(self._threads, self._folder)

    def _expect(self, worker: int, reference: Any) -> None:
        self._pending[reference] = worker
        self._waiting_for[worker] = reference
        self._unasked.append((self.now(), worker, reference))

    def _ask(self) -> None:
        """Ask workers that have been at the same thing for a while how far they are."""
        period = max(PULSE_S, len(self._pending) / PULSES_A_SECOND)
        until = self.now() - min(period, self._timeout_s / 4)
        while self._unasked and self._unasked[0][0] <= until:
            _, worker, reference = self._unasked.popleft()
            if self._waiting_for.get(worker) is reference:
                pulse = self._actors[worker].pulse.options(concurrency_group=PULSES)
                self._asked[pulse.remote()] = worker, reference

    def _told(self, asked: Any) -> list[Event[Any]]:
        """Return the beat that an answer is: nothing when there is nothing new in it."""
        worker, reference = self._asked.pop(asked)
        if self._waiting_for.get(worker) is not reference:
            return []
        try:
            pulse = ray.get(asked)
        except ray_errors.RayError:
            return []  # what happened to the worker is told by what it was at
        self._unasked.append((self.now(), worker, reference))
        if pulse is None or self._heard.get(worker) == pulse.number:
            return []
        self._heard[worker] = pulse.number
        return [Beat(worker, pulse.what, pulse.done, pulse.total)]

    def _put_archive(self, archive: Archive) -> Any:
        # One archive serves a whole generation: it travels once per node, not once per candidate.
        if self._archive is None or self._archive[0] is not archive:
            self.raylet.check()
            self._archive = archive, ray.put(archive)
        return self._archive[1]

    def _loaded(self, worker: int, reference: Any) -> Event[Any]:
        try:
            baseline, place = ray.get(reference)
        except ray_errors.RayTaskError as error:
            reason, fatal = cause_line(error), isinstance(error.cause, MoeashError)
            if isinstance(error.cause, InputError):
                reason += "; every node must see the same files and modules under the same names"
            return StartFailed(worker, reason, fatal or missing_module(error) is not None)
        except (ray_errors.RayError, RuntimeError) as error:
            module = missing_module(error)
            if module is not None:
                return StartFailed(
                    worker,
                    f"the module {module!r} is missing on the workers; install it on every node",
                    fatal=True,
                )
            return StartFailed(worker, first_line(error))
        if self.baseline is None:
            self.baseline = baseline
        for what in ("network", "data"):
            mine = getattr(baseline, f"{what}_fingerprint")
            if mine != getattr(self.baseline, f"{what}_fingerprint"):
                return StartFailed(
                    worker,
                    f"{place} loaded another {what} than the first worker; "
                    "the same paths must hold the same files on every node",
                )
        self.places[worker] = place
        return Ready(worker)

    def _answered(self, worker: int, reference: Any) -> Event[Any]:
        where = str(self.places[worker])
        try:
            return Answered(worker, ray.get(reference))
        except ray_errors.OutOfMemoryError as error:
            return Lost(worker, f"{where} ran out of memory: {memory_line(error)}", "memory")
        except ray_errors.RayTaskError as error:
            return Raised(worker, cause_line(error))
        except ray_errors.ActorUnavailableError as error:
            return Lost(worker, f"{where} cannot be reached: {first_line(error)}", "node")
        except ray_errors.ActorDiedError as error:
            text = str(error)
            cause: Cause = "node" if any(word in text for word in NODE_WORDS) else "worker"
            return Lost(worker, f"{where} died: {death_line(text)}", cause)
        except ray_errors.RayError as error:
            return Lost(worker, f"{where} lost its answer: {first_line(error)}", "node")


def _kill(actor: Any) -> None:
    # An actor that is gone already is what was wanted.
    with suppress(ray_errors.RayError, ValueError, RuntimeError):
        ray.kill(actor, no_restart=True)


def first_line(error: BaseException) -> str:
    """Return an error's first line with text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def cause_line(error: ray_errors.RayTaskError) -> str:
    """Return what a worker raised, in one line: our own messages as they are."""
    cause = error.cause
    module = missing_module(error)
    if module is not None:
        return f"the module {module!r} is missing on the workers; install it on every node"
    if isinstance(cause, MoeashError):
        return first_line(cause)
    return f"{type(cause).__name__}: {first_line(cause)}"


def missing_module(error: BaseException) -> str | None:
    """Return the module whose absence an error tells of."""
    found = re.search(r"ModuleNotFoundError: No module named '([\w.]+)'", str(error))
    return found.group(1) if found else None


def death_line(text: str) -> str:
    """Return why an actor died, out of Ray's several lines."""
    for pattern in (r"Worker exit detail: ([^.\n]+)", r"because (its node [^.\n]+)"):
        found = re.search(pattern, text)
        if found:
            return found.group(1).strip()
    return next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")


def memory_line(error: BaseException) -> str:
    """Return how full the node was, out of Ray's several lines."""
    found = re.search(r"Memory on the node .*? was ([^,;\n]+)", str(error))
    return f"the node was at {found.group(1)}" if found else first_line(error)
