"""A service that listens: address, socket, and an end that keeps nobody waiting."""

import logging.config
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from moeash.errors import BackendError
from moeash.service.access.auth import check_bind, is_loopback
from moeash.service.app import create_app, parts
from moeash.service.context import Context
from moeash.service.protection.connections import uvicorn_settings
from moeash.service.protection.logs import log_settings
from moeash.service.settings import Settings

BACKLOG = 2048
MOST_FILES = 65_536


class Server(uvicorn.Server):
    """Ends streams as soon as it is told to end: they would go on for ever."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end; asked by Ctrl-C again, wait for nobody.

        uvicorn would raise the signal again at the end, as if it had not been obeyed.
        """
        self._context.tail.end()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


@dataclass(frozen=True)
class Ready:
    """A service that listens.

    Attributes:
        url: where.
        login: the address that logs in one browser, once, within ten minutes; None where others
            come in, who use tokens.
        storage: of its studies.
        log: file of its log; None: stderr.
    """

    url: str
    login: str | None
    storage: str
    log: str | None


def serve(settings: Settings, *, tell: Callable[[Ready], None]) -> None:
    """Serve until told to end by Ctrl-C or SIGTERM.

    Args:
        settings: how.
        tell: is called once it listens.

    Raises:
        InputError: it may not listen there.
        BackendError: the port is taken.
    """
    context = parts(settings)
    check_bind(settings.host, context.auth.tokens)
    log = _log(context)
    _allow_many_files()
    app = create_app(context, settings)
    with listening(settings.host, settings.port) as listener:
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{port}/"
        # Where others come in there are tokens, and what is printed is kept in logs for many.
        is_alone = is_loopback(settings.host)
        login = f"{url}#login={context.auth.login_code()}" if is_alone else None
        tell(Ready(url, login, context.storage.url, None if log is None else str(log)))
        Server(config_of(app), context).run(sockets=[listener])


def _allow_many_files() -> None:
    """Let the process have as many connections as it may: every page that listens holds one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log(context: Context) -> Path | None:
    """Log to stderr, or where a person looks at that, to a file; return the file."""
    file = None
    if sys.stderr.isatty():
        file = context.queue.processes.folder / "service.log"
    logging.config.dictConfig(log_settings(file))
    return file


def config_of(app: ASGIApp) -> uvicorn.Config:
    """Return how uvicorn serves the application."""
    return uvicorn.Config(
        app,
        log_config=None,
        **uvicorn_settings(),
    )


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        BackendError: that is not possible.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named in full: otherwise asyncio does not know it for TCP, and leaves on the delay that
    # costs each small answer 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BackendError(
            f"cannot listen at {host}, port {port}: {error.strerror}; choose another with --port"
        ) from error
    listener.listen(BACKLOG)
    listener.set_inheritable(False)
    return listener
