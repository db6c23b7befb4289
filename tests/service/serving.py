"""An application with the routes of this folder, in this process or behind a real server."""

import contextlib
import threading
import time

import httpx
import uvicorn
from fastapi import FastAPI

from moeash.service import problems
from moeash.service.access.auth import Auth
from moeash.service.protection import protect
from moeash.service.protection.bodies import BodyLimits
from moeash.service.protection.connections import uvicorn_settings
from moeash.service.protection.origins import allowed_hosts
from moeash.service.routes import session, tokens
from moeash.study.storage.access.audit import Audit
from tests.databases import stored_at

API = "/api/v1"
ORIGIN = "http://127.0.0.1:8642"
PAGE = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
"""What a browser says about a request of the service's own page."""


class Service:
    """What a test needs of a service on an empty database."""

    def __init__(self, folder, *, limits=None, observe=None, clock=time.monotonic):
        self.storage = stored_at(folder / "a.db")
        self.auth = Auth(self.storage.database, clock=clock)
        self.audit = Audit(self.storage.database)
        self.framework = FastAPI(responses=problems.PROBLEMS, docs_url=None, redoc_url=None)
        problems.install(self.framework)
        self.framework.include_router(session.router(self.auth), prefix=API)
        self.framework.include_router(tokens.router(self.auth, self.audit), prefix=API)
        self.app = protect(
            self.framework,
            audit=self.audit,
            hosts=allowed_hosts("127.0.0.1"),
            limits=limits or BodyLimits(),
            observe=observe,
        )

    def token(self, role):
        return self.auth.tokens.create(role)[1]

    def bearer(self, role):
        return {"Authorization": f"Bearer {self.token(role)}"}

    def client(self, *, base=ORIGIN, address="127.0.0.1", **options):
        """A client below which there is no network."""
        return Client(self.app, base, address, options)

    def close(self):
        self.storage.close()


class Client:
    """A synchronous httpx client of an ASGI application; keeps cookies."""

    def __init__(self, app, base, address, options):
        self.cookies = httpx.Cookies()
        self._make = lambda: httpx.AsyncClient(
            transport=httpx.ASGITransport(app, client=(address, 5000)),
            base_url=base,
            cookies=self.cookies,
            **options,
        )

    def request(self, method, url, **arguments):
        import anyio

        async def ask():
            async with self._make() as client:
                answer = await client.request(method, url, **arguments)
                self.cookies = client.cookies
                return answer

        return anyio.run(ask)

    def get(self, url, **arguments):
        return self.request("GET", url, **arguments)

    def post(self, url, **arguments):
        return self.request("POST", url, **arguments)

    def delete(self, url, **arguments):
        return self.request("DELETE", url, **arguments)


@contextlib.contextmanager
def real_server(app, **settings):
    """Serve on a free port of loopback; yield the port."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, **(uvicorn_settings() | settings)
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
