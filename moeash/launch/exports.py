"""Exports as launches: what has become of one, and its files.

The launched process itself writes the report, last: a report that is there tells of files that were
written, read back and compared. Who only shows it needs neither torch nor the network.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from moeash.core.plain import json_text
from moeash.errors import InputError
from moeash.files import replacing
from moeash.launch.commands import LOG, OUT, REPORT
from moeash.launch.identity import host
from moeash.launch.logs import last_lines
from moeash.study.storage.team.launch import LaunchRecord

ExportStatus = Literal["queued", "running", "finished", "failed"]


@dataclass(frozen=True)
class ExportedFile:
    """A file that was exported.

    Attributes:
        name: in the folder of the export.
        size_bytes: of it.
        sha256: of its content, in hexadecimal digits.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class ExportState:
    """Where an export stands.

    Attributes:
        id: of its launch.
        study: whose solution it is.
        status: in one word.
        request: what was asked for.
        doing: what its process said last, in one line, while it runs; None before and after, and
            where its process is on another machine.
        error: why it failed, in one line.
        report: what was exported, and how it measured; None before.
        inspection: bytes of every part and tensor of the file; None before.
        files: what can be downloaded.
        requested_at: UTC, ISO 8601.
        ended_at: UTC, ISO 8601; None before.
    """

    id: int
    study: str
    status: ExportStatus
    request: Mapping[str, Any]
    doing: str | None
    error: str | None
    report: Mapping[str, Any] | None
    inspection: Mapping[str, Any] | None
    files: tuple[ExportedFile, ...]
    requested_at: str
    ended_at: str | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def write_report(
    to: Path,
    files: Sequence[Path],
    report: Mapping[str, Any],
    inspection: Mapping[str, Any] | None,
) -> None:
    """Write what was exported, with the digests of its files, as one JSON document.

    Raises:
        ExportError: it cannot be written.
    """
    document = {
        "report": report,
        "inspection": inspection,
        "files": [
            {"name": path.name, "size_bytes": path.stat().st_size, "sha256": _sha256(path)}
            for path in files
        ],
    }
    with replacing(to) as temporary:
        temporary.write_text(json_text(document), encoding="utf-8")


def export_state(record: LaunchRecord) -> ExportState:
    """Return where an export stands.

    Raises:
        InputError: the launch is none of an export.
    """
    if record.kind != "export":
        raise InputError(f"launch {record.id} is a run of study {record.study!r}, not an export")
    status: ExportStatus = "queued" if record.state == "queued" else "running"
    document: Mapping[str, Any] = {}
    error: str | None = None
    if record.ended:
        found = _read(record) if record.exit_code == 0 else record.message or "it ended"
        if isinstance(found, str):
            status, error = "failed", found.removeprefix("moeash: ")
        else:
            status, document = "finished", found
    return ExportState(
        id=record.id,
        study=record.study,
        status=status,
        request=dict(record.request),
        doing=doing_of(record) if status == "running" else None,
        error=error,
        report=_without_folder(document.get("report"), "path"),
        inspection=_without_folder(document.get("inspection"), "file"),
        files=tuple(ExportedFile(**file) for file in document.get("files", ())),
        requested_at=record.requested_at,
        ended_at=record.ended_at,
    )


def exported_file(record: LaunchRecord, name: str) -> tuple[Path, ExportedFile]:
    """Return a file of an export that is finished.

    Raises:
        InputError: it has none of that name here.
    """
    for file in export_state(record).files:
        if file.name == name:
            return Path(str(record.folder), OUT, file.name), file
    raise InputError(f"export {record.id} has no file {name!r}")


def log_of(record: LaunchRecord) -> Path:
    """Return the log of a launch, which need not be there yet.

    Raises:
        InputError: it is on another machine.
    """
    where = (record.place or {}).get("host")
    if where not in (None, host()):
        raise InputError(f"the log of launch {record.id} is on {where}: {record.folder}")
    return Path(record.folder or "/nonexistent", LOG)


def doing_of(record: LaunchRecord) -> str | None:
    """Return what a running process said last, in one line; None where it cannot be seen."""
    try:
        return last_lines(log_of(record), 1) or None
    except (InputError, OSError):
        return None


def _read(record: LaunchRecord) -> Mapping[str, Any] | str:
    """Return the report of an export that has ended well, or why there is none."""
    where = (record.place or {}).get("host")
    path = Path(record.folder or "", OUT, REPORT)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        for file in document["files"]:
            if not (path.parent / ExportedFile(**file).name).is_file():
                return f"file {file['name']!r} is no longer in {path.parent}"
        return dict(document)
    except FileNotFoundError:
        return f"its files are not here; {where} exported them to {path.parent}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its report {path} cannot be read: {error}"


def _without_folder(document: Mapping[str, Any] | None, key: str) -> Mapping[str, Any] | None:
    """Return a document whose file is called by its name: folders are nobody else's business."""
    return None if document is None else {**document, key: Path(str(document.get(key))).name}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
