"""Preparations that took long, kept beside a study so that another process need not repeat them.

A preparation is stored under a digest of everything it depends on: the float state, the method and
its options, the calibration images, seed, threads, device, versions and the code itself. Nothing
refers to the files, so they may be deleted at any time, and one that cannot be read is made again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moeash import __version__
from moeash.errors import ExportError, PreparedFileError
from moeash.methods.base import Method, Preparation
from moeash.methods.stored import load, save
from moeash.networks.network import Network
from moeash.networks.parameters import network_fingerprint
from moeash.options.tables import to_plain

WORTH_KEEPING_S = 2.0
"""What takes less is made again faster than people notice."""

MOST = 8
"""Files kept; the one read longest ago goes first."""

PACKAGE = Path(__file__).parents[1]
CODE = ("core", "networks", "tracing", "methods")
"""Folders of the package whose code a preparation depends on."""


class Preparations:
    """Preparations in one folder.

    Args:
        folder: where they lie; it is made when the first one is kept.
        worth_keeping_s: seconds a preparation must take to be kept.
        clock: measures them.
    """

    def __init__(
        self,
        folder: Path,
        *,
        worth_keeping_s: float = WORTH_KEEPING_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._worth_keeping_s = worth_keeping_s
        self._clock = clock

    def prepare(self, method: Method, preparation: Preparation, device: str) -> Any:
        """Return what a method prepares, read from a file where it was kept.

        Args:
            method: prepares.
            preparation: what it looks at.
            device: of the network.
        """
        path = self._folder / f"{digest_of(method, preparation, device)}.prepared"
        kept = self._read(path, device)
        if kept is not None:
            preparation.progress("reading what was prepared before", 0, None)
            return kept
        started = self._clock()
        prepared = method.prepare(preparation)
        if self._clock() - started >= self._worth_keeping_s:
            self._keep(prepared, path)
        return prepared

    def _read(self, path: Path, device: str) -> Any:
        try:
            if not path.exists():
                return None
            path.touch()
            return load(path, device)
        except (PreparedFileError, OSError):
            return None  # of another version, damaged, or not ours to read: it is made again

    def _keep(self, prepared: Any, path: Path) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            save(prepared, path)
            by_age = sorted(self._folder.glob("*.prepared"), key=lambda p: p.stat().st_mtime)
            for old in by_age[:-MOST]:
                old.unlink(missing_ok=True)
        except (ExportError, OSError):
            return  # a full disk must not cost the study what it has prepared


def digest_of(method: Method, preparation: Preparation, device: str) -> str:
    """Return 32 hex digits over everything a preparation depends on."""
    network, seed = preparation.network, preparation.seed
    depends: Mapping[str, Any] = depends_on(network, device, seed, preparation.n_threads) | {
        "method": to_plain(method.options, defaults=True) | {"name": method.name},
        "inputs": {
            name: preparation.splits[name].fingerprint()
            for name in ("calibration", "train")
            if name in preparation.splits
        },
        "refines": preparation.refines,
    }
    return digest_of_plain(depends)


def digest_of_plain(depends: Mapping[str, Any]) -> str:
    """Return 32 hex digits over plain values."""
    text = json.dumps(depends, sort_keys=True, default=list)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def depends_on(network: Network, device: str, seed: int, n_threads: int) -> dict[str, Any]:
    """Return what everything made of a network that takes long depends on, as plain values."""
    return {
        "versions": {"moeash": __version__} | {name: version(name) for name in ("torch", "numpy")},
        "code": digest_of_code(),
        "network": network_fingerprint(network.state),
        "folded": sorted(network.folded),
        "seed": seed,
        "threads": n_threads,
        "device": device,
    }


def digest_of_code(package: Path = PACKAGE) -> str:
    """Return a digest of the code that prepares; a version is the same all along a branch."""
    digest = hashlib.blake2b(digest_size=16)
    for folder in CODE:
        for path in sorted((package / folder).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                digest.update(path.read_bytes())
    return digest.hexdigest()
