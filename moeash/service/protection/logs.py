"""Logs as lines of JSON, with the request, study and recipe they are about."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from moeash.core.plain import json_text

_ABOUT: ContextVar[dict[str, Any] | None] = ContextVar("about", default=None)
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",  # of uvicorn, for terminals
}


@contextmanager
def about(**values: Any) -> Iterator[dict[str, Any]]:
    """Say in every log line of the block, and of threads it waits for, what it is about.

    Args:
        **values: such as ``study=`` and ``recipe=``; more may be added to the dict that is given.
    """
    given = {**(_ABOUT.get() or {}), **values}
    token = _ABOUT.set(given)
    try:
        yield given
    finally:
        _ABOUT.reset(token)


def mention(**values: Any) -> None:
    """Add to what the present request is about."""
    given = _ABOUT.get()
    if given is not None:
        given.update(values)


class JsonLines(logging.Formatter):
    """Writes a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **(_ABOUT.get() or {}),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json_text({name: _plain(v) for name, v in line.items() if v is not None})


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else str(value)


FILE_BYTES = 20 << 20
"""Bytes of a log file; older ones are kept, :data:`FILES` of them."""

FILES = 3


def log_settings(file: Path | None = None) -> dict[str, Any]:
    """Return the logging of the process, as ``logging.config.dictConfig`` takes it.

    Args:
        file: where lines go; None: stderr.
    """
    handler: dict[str, Any] = {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    if file is not None:
        handler = {
            "class": "logging.handlers.RotatingFileHandler",
            "filename": str(file),
            "maxBytes": FILE_BYTES,
            "backupCount": FILES,
            "encoding": "utf-8",
        }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonLines}},
        "handlers": {"lines": handler | {"formatter": "json"}},
        "root": {"level": "WARNING", "handlers": ["lines"]},
        "loggers": {"moeash": {"level": "INFO"}, "uvicorn.error": {"level": "INFO"}},
    }
