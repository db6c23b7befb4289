"""Files that people bring: streamed to disk, checked, and named when they are complete."""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moeash.errors import InputError
from moeash.files import temporary_in
from moeash.service.access.contents import CHECKS, check_content
from moeash.service.problems import Problem

MOST_BYTES = 4 << 30
MOST_TOTAL = 64 << 30
MOST_AT_ONCE = 4

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")


@dataclass(frozen=True)
class Upload:
    """An uploaded file.

    Attributes:
        name: in the folder of uploads, where specs find it by that.
        path: the whole.
        size_bytes: of it.
        sha256: of it, in hex.
        uploaded_by: whose it is; None where nobody wrote it down.
    """

    name: str
    path: str
    size_bytes: int
    sha256: str
    uploaded_by: str | None


class Uploads:
    """The folder of uploaded files.

    Attributes:
        most_bytes: of one file.
    """

    def __init__(
        self, folder: Path, *, most_bytes: int = MOST_BYTES, most_total: int = MOST_TOTAL
    ) -> None:
        self.most_bytes = most_bytes
        self._folder = folder
        self._most_total = most_total
        self._slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._digests: dict[tuple[str, int, int], str] = {}

    def store(self, name: str, pull: Callable[[], bytes], by: str) -> tuple[Upload, bool]:
        """Store a file; return it, and whether it is new.

        Args:
            name: of it.
            pull: gives the next bytes; none at the end.
            by: who brings it.

        Raises:
            InputError: the name or the content is none of what may be uploaded.
            Problem: another file has that name, it is too large, or there is no room.
        """
        suffix = _suffix(name)
        if not self._slots.acquire(blocking=False):
            raise Problem(
                503,
                "too-many-uploads",
                f"{MOST_AT_ONCE} files are being uploaded; try again later",
                headers={"Retry-After": "10"},
            )
        try:
            with temporary_in(self._folder) as temporary:
                digest = self._receive(temporary, pull)
                check_content(temporary, suffix)
                return self._take(temporary, self._folder / name, digest, by)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _no_room() from error
            raise
        finally:
            self._slots.release()

    def remove(self, name: str, by: str | None, used_by: Callable[[Path], str | None]) -> None:
        """Delete a file.

        Args:
            name: of it.
            by: whose it must be; None: anybody's.
            used_by: returns the name of a study that needs a file.

        Raises:
            Problem: there is no such file, it is somebody else's, or a study needs it.
        """
        path = self._folder / name
        with self._alone():
            known = _NAME.fullmatch(name) and path.suffix in CHECKS and not path.is_symlink()
            if not known or not path.is_file():
                raise Problem(404, "no-such-file", f"no file {name!r:.100} was uploaded")
            owner = self._described(path).uploaded_by
            if by is not None and by != owner:
                raise Problem(
                    403, "not-yours", f"{name!r} is {owner or 'nobody'}'s; ask them, or an admin"
                )
            study = used_by(path)
            if study is not None:
                raise Problem(
                    409, "file-in-use", f"study {study!r} needs {name!r}; wait for it, or stop it"
                )
            path.unlink()
            self._owner_of(path).unlink(missing_ok=True)

    def all(self) -> list[Upload]:
        """Return all files, by name."""
        found = []
        for path in sorted(self._folder.iterdir()):
            if _NAME.fullmatch(path.name) and path.suffix in CHECKS and not path.is_symlink():
                try:
                    found.append(self._described(path))
                except FileNotFoundError:  # deleted this moment
                    continue
        return found

    def _receive(self, temporary: Path, pull: Callable[[], bytes]) -> str:
        # Files of this moment count too: those being uploaded beside this one.
        room = self._most_total - self._n_bytes()
        digest, size = hashlib.sha256(), 0
        with temporary.open("wb") as file:
            while piece := pull():
                size += len(piece)
                if size > self.most_bytes:
                    raise Problem(
                        413,
                        "body-too-large",
                        f"the file is too large; at most {self.most_bytes:,} bytes are taken",
                        headers={"Connection": "close"},
                    )
                if size > room:
                    raise _no_room()
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def _n_bytes(self) -> int:
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # given its name this moment
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def _take(self, temporary: Path, target: Path, digest: str, by: str) -> tuple[Upload, bool]:
        with self._alone():
            is_new = not os.path.lexists(target)
            if is_new:
                # Before the file: one that is there has an owner.
                self._owner_of(target).write_text(by, "utf-8")
                temporary.replace(target)
                status = target.stat()
                self._digests[target.name, status.st_size, status.st_mtime_ns] = digest
            is_ours = target.is_file() and not target.is_symlink()
            described = self._described(target) if is_ours else None
        if described is None or described.sha256 != digest:
            raise Problem(
                409,
                "file-exists",
                f"another file is called {target.name!r}, and studies may need it; choose another "
                "name",
            )
        return described, is_new

    def _described(self, path: Path) -> Upload:
        status = path.stat()
        key = (path.name, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = hashlib.file_digest(file, "sha256").hexdigest()
        owner = self._owner_of(path)
        by = owner.read_text("utf-8", "replace") if owner.is_file() else None
        return Upload(path.name, str(path), status.st_size, self._digests[key], by)

    def _owner_of(self, path: Path) -> Path:
        """Return the file that says who brought another; no upload's name begins with a dot."""
        digest = hashlib.sha256(path.name.encode()).hexdigest()[:32]
        return self._folder / f".{digest}.owner"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder: other servers may have the same one."""
        with (self._folder / ".lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _suffix(name: str) -> str:
    suffix = Path(name).suffix
    if not _NAME.fullmatch(name) or suffix not in CHECKS:
        raise InputError(
            f"name is {name!r:.100}, needed up to 200 of a-z, A-Z, 0-9, _ . + -, beginning with a "
            f"letter or digit and ending with {', '.join(CHECKS)}"
        )
    return suffix


def _no_room() -> Problem:
    return Problem(507, "no-room", "there is no room for the file; ask an admin to delete others")
