"""A PostgreSQL server of a test session's own, on a socket in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path

import pytest


def _binary(name):
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))  # not on the path there
    found = shutil.which("initdb") or (debian[-1] if debian else None)
    if found is None:
        pytest.skip("no PostgreSQL server here: initdb was not found; install postgresql")
    return str(Path(found).resolve().with_name(name))


class Server:
    """A running server.

    Attributes:
        url: of its database ``postgres``.
    """

    def __init__(self, url, control, run, flags):
        self.url = url
        self._control, self._run, self._flags = control, run, flags

    def start(self):
        subprocess.run([*self._control, "-t", "60", "-o", self._flags, "start"], **self._run)

    def stop(self, mode="immediate"):
        """Stop it: ``immediate`` is a crash, ``fast`` says goodbye to its clients."""
        subprocess.run([*self._control, "-m", mode, "stop"], **self._run)


@contextmanager
def postgres_server():
    """Yield an empty server; what it has committed survives its crash, not the machine's."""
    initdb, control = _binary("initdb"), _binary("pg_ctl")
    as_server = []
    folder = Path(tempfile.mkdtemp(prefix="moeash-pg-"))
    if os.geteuid() == 0:  # initdb refuses to be root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("running as root without a user postgres to start the server as")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_server = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    options = {
        "listen_addresses": "",  # the socket alone: nobody else gets in, in any namespace
        "unix_socket_directories": folder,
        "fsync": "off",
        "full_page_writes": "off",
    }
    run = {
        "check": True,
        "capture_output": True,
        "cwd": "/",
        "env": os.environ | {"LC_ALL": "C.UTF-8"},
    }
    try:
        arguments = ["-U", "app", "--auth=trust", "-E", "UTF8", "--no-sync", "--no-instructions"]
        subprocess.run([*as_server, initdb, "-D", folder / "data", *arguments], **run)
        flags = " ".join(f"-c {name}={value}" for name, value in options.items())
        flags = flags.replace("listen_addresses=", "listen_addresses=''")
        pg_ctl = [*as_server, control, "-D", folder / "data", "-w", "-l", folder / "log"]
        server = Server(f"postgresql+psycopg://app@/postgres?host={folder}", pg_ctl, run, flags)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_database(url, *, like=None):
    """Create a database on the server of ``url`` and return its URL.

    Args:
        url: of any database of the server.
        like: the URL of a database that nobody has open, to be copied; default: an empty one.
    """
    from sqlalchemy import create_engine, make_url, text

    name = f"db{uuid.uuid4().hex}"
    template = "" if like is None else f" TEMPLATE {make_url(like).database}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}{template}"))
    engine.dispose()
    return url.replace("/postgres?", f"/{name}?")


def with_tables(url):
    """Create a database as SqlStorage makes it and return its URL; copies of it take no Alembic."""
    from moeash.study.storage.sql import SqlStorage

    made = new_database(url)
    SqlStorage(made).close()
    return made
