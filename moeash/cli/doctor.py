"""``moeash doctor``: is everything here that a study needs?"""

import importlib
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import typer

from moeash.cli import surroundings
from moeash.cli.show import JsonOption, StorageOption, print_json, say

Check = Callable[[], str]

PACKAGES = ("numpy", "torch", "torchvision", "pymoo", "bitarray", "sqlalchemy")

IMPORTED = (
    *PACKAGES,
    *("alembic", "matplotlib", "pandas", "PIL", "ray", "rich", "safetensors", "scipy", "sklearn"),
    "typer",
)
"""What a file in the working folder had better not be called."""


HASTE_S = 2.0
"""How long a server is waited for by somebody who asks whether it is there."""

KERNELS = (
    "moeash.codec.adaptive._rows",
    "moeash.codec.static._stack",
    "moeash.core._bins",
    "moeash.core._levels",
    "moeash.core._taking",
    "moeash.methods.feedback.assignment._survivors",
)
"""What is compiled."""


def doctor(storage: StorageOption = None, json_: JsonOption = False) -> None:
    """Check the installation and what is around it, and say what to do about what is wrong."""
    checks: list[tuple[str, Check]] = [
        ("working folder", lambda: surroundings.shadowing(Path.cwd(), IMPORTED)),
        ("python", _python),
        ("kernels", _kernels),
        *((name, partial(_package, name)) for name in PACKAGES),
        ("torch device", _device),
        ("entropy coder", _coder),
        ("storage", lambda: _storage(storage)),
        ("file system", lambda: _file_system(storage)),
        ("folders", lambda: surroundings.folders(Path(tempfile.gettempdir()), Path.cwd())),
        ("threads", _threads),
        ("open files", surroundings.open_files),
        ("ray", lambda: surroundings.ray(os.environ)),
        ("shared memory", surroundings.shared_memory),
    ]
    results: list[dict[str, Any]] = []
    for name, check in checks:
        ok, warned = True, False
        try:
            detail = check()
        except surroundings.Warned as warning:
            warned, detail = True, str(warning)
        except Exception as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        results.append({"check": name, "ok": ok, "warning": warned, "detail": detail})
    healthy = all(result["ok"] for result in results)
    if json_:
        print_json({"ok": healthy, "checks": results})
    else:
        for result in results:
            mark = "FAIL" if not result["ok"] else "warn" if result["warning"] else "ok  "
            say(f"{mark}  {result['check']}: {result['detail']}")
    if not healthy:
        raise typer.Exit(1)


def _python() -> str:
    return f"{platform.python_version()} on {platform.machine()}"


def _threads() -> str:
    from moeash.runtime.threads import available_cores

    return surroundings.threads(os.environ, available_cores(), surroundings.quota_of())


def _file_system(storage: str | None) -> str:
    from moeash.study.opening import DEFAULT_STORAGE

    place = storage or os.environ.get("MOEASH_STORAGE") or DEFAULT_STORAGE
    if "://" in place:
        return "a server's"
    return surroundings.file_system(Path(place))


def _package(name: str) -> str:
    importlib.import_module(name)
    return importlib.metadata.version(name)


def _kernels() -> str:
    for name in KERNELS:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise RuntimeError(
                f"{name} is not compiled, or for another Python ({error}); install moeash again, "
                "in a checkout with: pip install -e ."
            ) from error
    import numpy as np

    from moeash.core.bins import Grid, assign_bins, assign_bins_reference

    weights = np.linspace(-1, 1, 10_001, dtype=np.float32)
    grid = Grid.spanning(-1.0, 1.0, 37)
    if not np.array_equal(assign_bins(weights, grid), assign_bins_reference(weights, grid)):
        raise RuntimeError("the compiled kernel disagrees with its definition; reinstall moeash")
    return f"all {len(KERNELS)} compiled; bins equal to their definition"


def _device() -> str:
    torch = importlib.import_module("torch")
    available = torch.cuda.is_available()
    if not available:
        driver = Path("/proc/driver/nvidia/version").exists()
        return surroundings.device(driver, torch.version.cuda, available)
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _coder() -> str:
    import numpy as np

    from moeash.codec.container import decode, encode
    from moeash.codec.pools import CODERS
    from moeash.core.codebook import Codebook, SharedTensor, SharedWeights

    indices = np.random.default_rng(0).integers(0, 5, 1000).astype(np.uint8)
    tensor = SharedTensor("w", (1000,), "float32", 0, indices, np.bincount(indices, minlength=5))
    shared = SharedWeights((Codebook(np.arange(5, dtype=np.float32)),), (tensor,))
    for coder in CODERS:
        if decode(encode(shared, coder=coder)).shared.fingerprint() != shared.fingerprint():
            raise RuntimeError(
                f"a file of coder {coder} does not decode to what was encoded; reinstall moeash"
            )
    return f"round trip exact: {', '.join(CODERS)}"


def _storage(storage: str | None) -> str:
    from moeash.errors import StudyNotFoundError
    from moeash.study.opening import open_storage

    with tempfile.TemporaryDirectory() as folder:
        open_storage(str(Path(folder) / "moeash.db")).close()
    try:
        store = open_storage(storage, create=False, patience_s=HASTE_S)
    except StudyNotFoundError:
        return "SQLite works; no study was run here yet"
    n = len(store.studies())
    return f"{store.url}: {n} {'study' if n == 1 else 'studies'}"
