"""Every Ray setting that matters to moeash, and why. Nothing else sets any.

Ray reads its environment when it is imported or when a process of it starts, so :func:`prepare`
must run before ``import ray``. What a person has set stays as it is: every value here is a default.
"""

import os
import secrets
import signal
import site
import threading
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path

from moeash.backends.worker import Folder
from moeash.files import TemporaryFolder

QUIET: dict[str, str] = {
    # Ray reports usage to its makers unless told otherwise. A tool that runs on other people's
    # clusters has no business doing that for them.
    "RAY_USAGE_STATS_ENABLED": "0",
    # A disabled `ray start` still posts one "disabled" report; the discard port takes it.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
    # Ray would hide every GPU from actors that reserve none, and warn that it will stop doing so.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Set in the driver, and by docker/ on every node."""

NO_SPARES: dict[str, str] = {
    # Ray starts processes that wait for work before there is any. Ours have an environment of their
    # own and are never among them.
    "RAY_prestart_worker_first_driver": "0",
}
"""Of a Ray that serves one study."""

FAST_DETECTION: dict[str, str] = {
    # Ray's own values notice a dead node after 14 s; these after about 1 s. They belong on every
    # node (docker/ sets them); a local Ray has one node and does not need them.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}

TOKEN_PLACES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")

CONNECT_TIMEOUT_S = 5.0
"""How long a head node may take to accept a connection before the address is called wrong."""

WAIT_STEP_S = 1.0
"""Longest single wait, so that Ctrl-C is answered even while nothing happens."""


def prepare(address: str | None, environ: MutableMapping[str, str] | None = None) -> None:
    """Set what is not set yet, before Ray is imported.

    Args:
        address: of a running cluster; None when moeash starts its own Ray.
        environ: default: this process's.
    """
    environ = os.environ if environ is None else environ
    for name, value in (QUIET if address else QUIET | NO_SPARES).items():
        environ.setdefault(name, value)
    # Whether an unset mode means "token" or "open" depends on what lies in the home folder, so the
    # mode is always set.
    if "RAY_AUTH_MODE" not in environ:
        if address is None:
            # Ray listens on every interface and runs whatever it is sent. A secret that only this
            # process and its children know keeps the rest of the network out.
            environ["RAY_AUTH_MODE"] = "token"
            if not any(place in environ for place in TOKEN_PLACES):
                environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        else:
            environ["RAY_AUTH_MODE"] = "token" if has_token(environ) else "disabled"


def has_token(environ: MutableMapping[str, str]) -> bool:
    """Tell whether this user has a token for clusters."""
    home = Path(environ.get("HOME", "~")).expanduser()
    return any(place in environ for place in TOKEN_PLACES) or (home / ".ray/auth_token").is_file()


def local_options(*, n_cpus: float, n_gpus: float) -> dict[str, object]:
    """Return the arguments of ``ray.init`` for a Ray that lives as long as one study."""
    options: dict[str, object] = {
        "num_cpus": max(1, -int(-n_cpus // 1)),  # workers as asked for, even on fewer cores
        "include_dashboard": False,  # nobody looks at it; its process starts all the same
        "log_to_driver": False,  # moeash reports what matters itself
        "logging_level": "ERROR",
    }
    # The object store keeps Ray's own size, a third of the memory: it is reserved as it fills, and
    # holds the weights, the prepared arrays and the search images once.
    # Ray 2.60 listens on all interfaces whatever address it is given: the token of `prepare` is
    # what keeps others out, and in tests a network namespace that has only loopback.
    if not n_gpus:
        options["num_gpus"] = 0  # do not even look for GPUs
    return options


def cluster_options(address: str) -> dict[str, object]:
    """Return the arguments of ``ray.init`` for a running cluster."""
    return {"address": address, "log_to_driver": False, "logging_level": "ERROR"}


class _Without(list[str]):
    """A search path that a folder is kept out of."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder

    def extend(self, paths: Iterable[str]) -> None:
        super().extend(path for path in paths if path != self._folder)


def search_options(folder: Folder) -> dict[str, object]:
    """Return the arguments of ``ray.init`` that have workers find modules as this process does.

    Ray has them look in the driver's working folder before all others, and imports NumPy (through
    pyarrow, where that is installed) before a worker's own code could change that.
    """
    if folder.place == "first":
        return {}
    from ray.job_config import JobConfig

    config = JobConfig()
    config._py_driver_sys_path = _Without(folder.path)  # an empty one it would replace
    return {"job_config": config}


PREFIX = "moeash-ray-"

CLOUD_FILE = "ray_bootstrap_config.yaml"


class OwnHome:
    """A home folder for a local Ray's own processes, so that they do not ask for a cloud.

    With ray[default] its dashboard process starts unasked and tries 169.254.169.254 and a name
    look-up, unless :data:`CLOUD_FILE` lies in the home folder. A person's home is not ours to write
    to. The folder must live as long as that Ray; workers are sent back to the person's home.
    """

    def __init__(self) -> None:
        self._made = TemporaryFolder(PREFIX)
        self.folder = str(self._made.path)
        Path(self.folder, CLOUD_FILE).write_text("{}\n", encoding="utf-8")
        self._before = {name: os.environ.get(name) for name in ("HOME", "PYTHONUSERBASE")}

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Let what this process starts meanwhile live there."""
        os.environ["HOME"] = self.folder
        os.environ["PYTHONUSERBASE"] = site.getuserbase()  # where Ray itself may be installed
        try:
            yield
        finally:
            for name, value in self._before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value

    @property
    def way_back(self) -> dict[str, str]:
        """Environment variables that give workers the person's own home again."""
        return {name: value for name, value in self._before.items() if value is not None}

    def close(self) -> None:
        """Remove the folder."""
        self._made.close()


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which ``ray.init`` replaces by its own.

    Ray's own answer ends its node before anybody has said goodbye to the workers, whereupon its
    C++ part aborts. A SIGTERM that comes while Ray starts is answered when Ray has stopped
    answering it. Signals belong to the main thread; elsewhere Ray leaves them alone.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def worker_environment(n_threads: int) -> dict[str, str]:
    """Return the environment of a worker process.

    Threads are pinned for every library that brings its own, because sums in another order are
    other numbers: a front must not depend on how many cores a node has.
    """
    return {
        name: str(n_threads)
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    }
