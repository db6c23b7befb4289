"""The whole service on loopback, in a thread of this process, as `moeash serve` makes it."""

import contextlib
import threading
import time

import httpx

from moeash.service.app import create_app, parts
from moeash.service.serving import Server, config_of, listening
from moeash.service.settings import Settings

PATIENCE_S = 120


class Whole:
    """A running service.

    Attributes:
        url: of it.
        context: its parts.
    """

    def __init__(self, url, context):
        self.url = url
        self.context = context

    @property
    def storage(self):
        return self.context.storage

    def client(self, role=None, **options):
        """A client with a token of this role; without one for None."""
        headers = {}
        if role is not None:
            _, secret = self.context.auth.tokens.create(role)
            headers = {"Authorization": f"Bearer {secret}"}
        options = {"timeout": PATIENCE_S, **options}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, **options)


@contextlib.contextmanager
def whole_service(folder, **options):
    settings = Settings(
        **{"storage": folder / "moeash.db", "folder": folder / "files", "port": 0, **options}
    )
    context = parts(settings)
    with listening(settings.host, settings.port) as listener:
        server = Server(config_of(create_app(context, settings)), context)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            yield Whole(f"http://127.0.0.1:{listener.getsockname()[1]}", context)
        finally:
            context.tail.end()
            server.should_exit = True
            thread.join()
