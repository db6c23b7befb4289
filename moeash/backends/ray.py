"""Evaluate on a Ray cluster, or on a Ray of our own: one actor per slot, the pool decides.

The numbers are those of the in-process backend bit for bit, whatever happens to workers meanwhile.
"""

import socket
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeVar

from moeash.backends import ray_settings
from moeash.backends.base import Baseline, Notify, cannot_build, ignore
from moeash.backends.last_words import LastWords
from moeash.backends.options import BackendOptions
from moeash.backends.pool import Failure, Pool
from moeash.backends.staff import IDLE_S, Limits, Usage
from moeash.backends.worker import Call, Folder
from moeash.core.codebook import SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.solutions.recipe import Recipe, Start
from moeash.errors import BackendError
from moeash.evaluation.outcome import Archive, Job, Outcome
from moeash.evaluation.task import Task
from moeash.runtime.threads import available_cores

if TYPE_CHECKING:
    from moeash.backends.ray_crew import RayCrew


START_TIMEOUT_S = 300.0
"""How long a worker may take to start, queueing for room included, without a sign of progress."""

MAX_RESTARTS = 1
"""New starts of a Ray of our own that died: what kills the second one will kill the third."""

T = TypeVar("T")


class RayBackend:
    """Actors on Ray."""

    def __init__(
        self,
        task: Task,
        options: BackendOptions,
        *,
        start_timeout_s: float = START_TIMEOUT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        """Start nothing yet.

        Args:
            task: what to evaluate.
            options: where, and on how much.
            start_timeout_s: time a worker may take to start without a sign of progress.
            idle_s: workers above the fewest are released when idle for so long.
        """
        assert task.n_threads is not None, "threads are part of a study; the runner decides them"
        self._task = task
        self._options = options
        self._start_timeout_s, self._idle_s = start_timeout_s, idle_s
        self._cpus = options.cpus_per_worker or float(task.n_threads)
        self._pool: Pool[Call, Outcome | SharedWeights] | None = None
        self._crew: RayCrew | None = None
        self._own_ray = False
        self._home: ray_settings.OwnHome | None = None
        self._last_words: LastWords | None = None
        self._notify: Notify = ignore
        self._n_spares = 0
        self._restarts = 0
        self._gone = False

    @property
    def pool(self) -> Pool[Call, Outcome | SharedWeights]:
        """The pool; :meth:`open` must have been called."""
        assert self._pool is not None
        return self._pool

    @property
    def crew(self) -> "RayCrew":
        """The actors; :meth:`open` must have been called."""
        assert self._crew is not None
        return self._crew

    @property
    def n_slots(self) -> int:
        """How many jobs keep every worker busy, and let their number grow where it may."""
        return self.pool.n_slots

    @property
    def n_ready(self) -> int:
        """Outcomes that are here."""
        return self.pool.n_ready

    @property
    def workers(self) -> int:
        """Workers that live."""
        return self.pool.n_alive

    @property
    def usage(self) -> Usage:
        """How the workers' time was spent."""
        return self.pool.usage

    def open(self, notify: Notify = ignore, progress: Progress = silent) -> Baseline:
        """Connect, start the first worker, and share what it made with the others.

        Raises:
            BackendError: no cluster at the address, another Ray or Python there, or no worker
                can load the task.
        """
        ray_settings.prepare(self._options.address)
        progress("connecting to Ray", 0, None)
        n_local = self._connect()
        self._notify, options = notify, self._options
        self._crew = self._new_crew()
        most = options.most_workers or n_local or self._room()
        least = most if options.fewest_workers is None else options.fewest_workers
        limits = Limits(
            least,
            most,
            options.timeout_s,
            options.max_tries,
            self._start_timeout_s,
            self._idle_s,
        )
        self._pool = Pool(self._crew, limits, notify=notify, progress=progress)
        if not self._crew.fits():
            notify(f"{self._crew.why_not_starting()}; waiting {self._start_timeout_s:g} s for it")
        progress("starting the first worker", 0, None)
        self._n_spares = least - 1
        return self._mending(self._start_workers)

    def _new_crew(self) -> "RayCrew":
        from moeash.backends.ray_crew import RayCrew

        return RayCrew(
            self._task,
            cpus=self._cpus,
            gpus=self._options.gpus_per_worker,
            timeout_s=self._options.timeout_s,
            environment={} if self._home is None else self._home.way_back,
        )

    def _start_workers(self) -> Baseline:
        """Start the first worker, and share what it made with the others."""
        self.crew.begin_spares(self._n_spares)
        self.pool.ensure(1, at_most=1)
        self.crew.share_common()
        self.pool.ensure(1)
        assert self.crew.baseline is not None
        return self.crew.baseline

    def submit(self, job: Job, archive: Archive) -> int:
        """Queue one job."""
        ticket = self.pool.queue(Call("evaluate", job, archive))
        self._mending(self.pool.dispatch)
        return ticket

    def wait(self, n_slots: int) -> bool:
        """Wait for an outcome or for more slots than these; return whether there is an outcome."""
        return self._mending(lambda: self.pool.wait(n_slots))

    def next(self) -> tuple[int, Outcome]:
        """Return a ticket and its outcome as soon as there is one."""
        ticket, result = self._mending(self.pool.next)
        if isinstance(result, Failure):
            return ticket, failed(result)
        assert isinstance(result, Outcome)
        return ticket, result

    def cancel(self, ticket: int) -> None:
        """Forget a ticket."""
        self.pool.cancel(ticket)

    def build(self, recipe: Recipe, *, start: Start | None = None) -> SharedWeights:
        """Have a worker build the shared weights of a recipe.

        Raises:
            EvaluationError: it cannot be built.
        """
        ticket = self.pool.queue(Call("build", Job(recipe, start=start)))
        self._mending(self.pool.dispatch)
        result = self._mending(lambda: self.pool.result(ticket))
        if isinstance(result, Failure):
            raise cannot_build(recipe, str(result))
        assert isinstance(result, SharedWeights)
        return result

    def close(self) -> None:
        """End the workers, and Ray if it is our own."""
        if self._pool is not None and not self._gone:
            self._pool.close()
        if self._crew is not None and not self._gone:
            self._crew.close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._own_ray:
            import ray

            ray.shutdown()
            self._own_ray = False
        if self._last_words is not None:
            self._last_words.close()
            self._last_words = None
        if self._home is not None:
            self._home.close()
            self._home = None

    def _mending(self, work: Callable[[], T]) -> T:
        """Return what work returns; when our own Ray dies meanwhile, in another one.

        Raises:
            BackendError: there is nothing to mend: it is somebody else's Ray, or the next one died
                as well.
        """
        while True:
            try:
                return work()
            except BackendError as error:
                self._begin_again(error)

    def _begin_again(self, error: BackendError) -> None:
        """Start another Ray of our own, if that is what the error tells of."""
        from moeash.backends.ray_health import RayLost

        if not isinstance(error, RayLost):
            try:
                self.crew.raylet.check()
            except RayLost as lost:
                error = lost
            else:
                raise error
        if self._home is None or self._restarts >= MAX_RESTARTS:
            self._gone = True
            raise RayLost(
                f"{error}; everything evaluated is stored, run the same command to continue"
            )
        self._restarts += 1
        self._notify(f"{error}; another one is started, and what was under way begins again")
        baseline = self.crew.baseline
        self._disconnect()
        self._connect()
        self._crew = self._new_crew()
        self._crew.baseline = baseline
        self.pool.begin_again(self._crew)
        if baseline is not None:
            self._mending(self._start_workers)

    def _connect(self) -> int | None:
        """Connect; return the number of workers of a Ray of our own, else None."""
        try:
            import ray
        except ImportError as error:
            raise BackendError(
                "the ray backend needs Ray; install it with: pip install 'moeash[ray]'"
            ) from error
        if ray.is_initialized():
            return None
        address, options = self._options.address, self._options
        if address is not None:
            check_address(address)
            arguments = ray_settings.cluster_options(address)
            n_local = None
        else:
            n_local = options.most_workers or max(1, int(available_cores() // self._cpus))
            arguments = ray_settings.local_options(
                n_cpus=n_local * self._cpus, n_gpus=options.gpus_per_worker
            )
            self._home = ray_settings.OwnHome()
        try:
            with (
                ray_settings.own_sigterm(),
                nullcontext() if self._home is None else self._home.entered(),
            ):
                ray.init(**arguments, **ray_settings.search_options(Folder.here()))
        except (RuntimeError, ConnectionError, ValueError, OSError) as error:
            raise BackendError(why_not_connected(address, error)) from error
        self._own_ray = True
        self._last_words = LastWords()
        return n_local

    def _room(self) -> int:
        """Return how many workers the nodes have room for."""
        import ray

        n = 0
        for node in (node["Resources"] for node in ray.nodes() if node["Alive"]):
            fitting = node.get("CPU", 0.0) // self._cpus
            if self._options.gpus_per_worker:
                fitting = min(fitting, node.get("GPU", 0.0) // self._options.gpus_per_worker)
            n += int(fitting)
        return max(1, n)


def failed(failure: Failure) -> Outcome:
    """Return the outcome of a job that no worker could finish."""
    return Outcome(
        status="failed",
        metric=None,
        bound=None,
        sizes=None,
        fingerprint=None,
        n_batches=0,
        duration_s=0.0,
        error=str(failure),
        retriable=not failure.raised,
    )


def check_address(address: str) -> None:
    """Refuse an address nobody answers at, before Ray spends half a minute on it.

    Raises:
        BackendError: what is wrong with it.
    """
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise BackendError(
            f"address {address!r} is a URL; give HOST:PORT of the head node (usually port 6379), "
            "or use `moeash submit --address http://HEAD:8265` to run on the cluster itself"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise BackendError(f"address {address!r} is not auto and not HOST:PORT")
    try:
        with socket.create_connection((host, int(port)), ray_settings.CONNECT_TIMEOUT_S):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BackendError(
            f"no Ray answers at {address} ({reason}); start one there with "
            f"`ray start --head --port={port}`, or give the address it printed"
        ) from error


def why_not_connected(address: str | None, error: Exception) -> str:
    """Return one line on what ``ray.init`` has refused, and what to do."""
    text = " ".join(str(error).split())
    where = "a local Ray" if address is None else f"the Ray at {address}"
    if "ersion mismatch" in text:
        return f"{where} runs other versions than this process: {text[:300]}; install the same"
    if "authentication" in text.lower() or "token" in text.lower():
        return (
            f"{where} refused this process's token; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH to the cluster's token file"
        )
    if address is not None:
        return (
            f"cannot connect to {where}: {text[:300]}; is it the port of a head node, and has this "
            "process the cluster's token (RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH)?"
        )
    return f"{where} did not start: {text[:300]}"
