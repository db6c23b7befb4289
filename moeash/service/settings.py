"""How a service runs."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How a service runs.

    Attributes:
        storage: database URL or path; None: what MOEASH_STORAGE says, or ``./moeash.db``.
        folder: of launches, exports and uploads; None: beside an SQLite file, or
            ``./moeash-files``.
        host: address that it listens at.
        port: port that it listens at; 0: any that is free.
        allow_hosts: names by which browsers may call it, beside those of the loopback.
        max_running: studies that run at a time.
        ray_address: dashboard of a Ray cluster that studies run on; None: processes of this
            machine.
        roots: folders that specs from the network may read.
        allow_modules: modules whose functions specs from the network may name.
    """

    storage: str | os.PathLike[str] | None = None
    folder: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8642
    allow_hosts: tuple[str, ...] = ()
    max_running: int = 1
    ray_address: str | None = None
    roots: tuple[Path, ...] = ()
    allow_modules: tuple[str, ...] = ()
