"""What around an installation would trouble a study later: folders, limits, variables, devices.

Each check returns one line, or raises :class:`Warned` with what may go wrong and what to do.
"""

import importlib.util
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

LEAST_SHM_BYTES = 1 << 30
"""Shared memory below which Ray keeps its objects in files, and says so at length."""

LEAST_FREE_BYTES = 1 << 28
LEAST_OPEN_FILES = 1024

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "virtiofs"}
)
"""File systems on which locks of files may hold on one machine only, or nowhere."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Warned(Exception):  # noqa: N818
    """Something that works, and may not when it is needed."""


def shadowing(folder: Path, packages: Collection[str]) -> str:
    """Look for files in the working folder that are called like a module moeash imports."""
    known = set(packages) | sys.stdlib_module_names
    found = sorted(
        path.name
        for path in folder.iterdir()
        if (path.suffix == ".py" and path.stem in known)
        or (path.name in known and (path / "__init__.py").is_file())
    )
    if found:
        raise Warned(
            f"{', '.join(found)} in {folder} may be imported in the place of the module of that "
            "name; rename it, or work in another folder"
        )
    return "nothing here is called like a module"


def folders(*places: Path) -> str:
    """Write to the folders that a study writes to."""
    for place in places:
        try:
            with tempfile.TemporaryFile(dir=place) as file:
                file.write(b"moeash")
                file.flush()
        except OSError as error:
            raise Warned(
                f"{place} cannot be written ({error.strerror}); set TMPDIR, output.folder and "
                "MOEASH_STORAGE to folders that can"
            ) from error
        free = shutil.disk_usage(place).free
        if free < LEAST_FREE_BYTES:
            raise Warned(f"{place} has {free >> 20:,} MiB left; free some space")
    return f"{' and '.join(map(str, places))} can be written"


def shared_memory(place: Path = Path("/dev/shm")) -> str:
    """Look how much shared memory Ray would have."""
    if not place.is_dir():
        return "not of this system"
    total = shutil.disk_usage(place).total
    if total < LEAST_SHM_BYTES:
        raise Warned(
            f"{place} has {total >> 20:,} MiB, and workers on Ray share arrays there; start the "
            "container with --shm-size=1g or more"
        )
    return f"{total / (1 << 30):.1f} GiB"


def open_files(soft: int | None = None) -> str:
    """Look how many files a process may open: Ray holds some for each worker."""
    if soft is None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return "unlimited"
    if soft < LEAST_OPEN_FILES:
        raise Warned(f"a process may open {soft:,} files; raise it with ulimit -n 65536")
    return f"{soft:,} a process"


def threads(environ: Mapping[str, str], n_cores: int, quota: float | None) -> str:
    """Compare the cores this process may use with what it is told to use.

    Args:
        environ: of the process.
        n_cores: it may run on.
        quota: CPUs a container grants; None without one.
    """
    granted = n_cores if quota is None else min(n_cores, quota)
    for name in THREAD_VARIABLES:
        value = environ.get(name, "")
        if value.isdigit() and int(value) > granted:
            raise Warned(f"{name}={value} on {granted:g} usable cores slows everything; lower it")
    if granted < n_cores:
        raise Warned(
            f"the container grants {granted:g} CPUs and shows {n_cores} cores; set "
            f"evaluation.threads = {max(1, int(granted))}, and as many workers as that allows"
        )
    told = {name: environ[name] for name in THREAD_VARIABLES if name in environ}
    return f"{n_cores} cores" + "".join(f", {name}={value}" for name, value in told.items())


def quota_of(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Return the CPUs that the control group of this process grants; None without a limit."""
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def ray(environ: Mapping[str, str]) -> str:
    """Look for what in the environment would lead Ray elsewhere than a study says."""
    if importlib.util.find_spec("ray") is None:
        return "not installed; pip install 'moeash[ray]' for more than one process"
    address = environ.get("RAY_ADDRESS")
    if address:
        raise Warned(
            f"RAY_ADDRESS={address} makes every Ray this process starts a connection to that "
            "cluster; unset it and give --address"
        )
    has_token = any(environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    home = Path(environ.get("HOME", "~")).expanduser()
    if environ.get("RAY_AUTH_MODE") == "token" and not (
        has_token or (home / ".ray/auth_token").is_file()
    ):
        raise Warned("RAY_AUTH_MODE=token and no token; set RAY_AUTH_TOKEN_PATH, or unset the mode")
    folder = environ.get("RAY_TMPDIR")
    if folder and not os.access(folder, os.W_OK | os.X_OK):
        raise Warned(f"RAY_TMPDIR={folder} is no folder that can be written; unset it")
    return "installed, and nothing leads it elsewhere"


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the file system of an SQLite database.

    Args:
        path: of the database.
        mounts: as in ``/proc/self/mounts``; default: this machine's.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text()
        except OSError:
            return "unknown"
    kind, longest = "unknown", -1
    real = path.resolve()
    for line in mounts.splitlines():
        place, of = line.split()[1:3]
        mounted = Path(place.replace("\\040", " "))
        if real.is_relative_to(mounted) and len(mounted.parts) >= longest:
            kind, longest = of, len(mounted.parts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise Warned(
            f"{real} is on {kind}, a network file system, where SQLite's locks may not hold; put "
            "the database on a local disk, or use PostgreSQL"
        )
    return kind


def device(driver: bool, built_for: str | None, available: bool) -> str:
    """Compare torch's build with the machine, where torch uses no GPU.

    Args:
        driver: a driver of NVIDIA is loaded.
        built_for: the version of CUDA torch was built for; None: for none.
        available: torch can use a GPU.
    """
    if available or not driver:
        return "cpu"
    if built_for is None:
        raise Warned(
            "there is a GPU driver, and this torch is built without CUDA; install a build of torch "
            "for CUDA to use it"
        )
    raise Warned(
        f"there is a GPU driver, and torch, built for CUDA {built_for}, cannot use it: it is older "
        "than that, or hides its GPUs (CUDA_VISIBLE_DEVICES); update it, or install a torch built "
        "for an older CUDA"
    )
