"""The service as an ASGI application: wiring, nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from moeash import __version__
from moeash.launch.process import Processes
from moeash.launch.queue import Queue
from moeash.service import problems, statuses
from moeash.service.access.auth import Auth
from moeash.service.access.roots import Roots
from moeash.service.access.uploads import Uploads
from moeash.service.access.uses import Uses
from moeash.service.context import Context
from moeash.service.metrics import Metrics
from moeash.service.protection import protect
from moeash.service.protection.bodies import BodyLimits
from moeash.service.protection.compression import LEVEL, SMALLEST, Compressed
from moeash.service.protection.origins import allowed_hosts
from moeash.service.routes import (
    cluster,
    evaluations,
    events,
    exports,
    files,
    health,
    logs,
    metrics,
    pages,
    session,
    specs,
    studies,
    tokens,
)
from moeash.service.settings import Settings
from moeash.service.ticker import Ticker
from moeash.service.views.charts import Charts
from moeash.service.views.studies import Studies
from moeash.service.views.tail import Tail
from moeash.study.opening import open_storage
from moeash.study.storage.access.audit import Audit
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.counting import Counting
from moeash.study.storage.team.labels import Labels
from moeash.study.storage.team.launches import Launches
from moeash.study.storage.team.listing import Listing
from moeash.study.storage.team.stream import Stream

API = "/api/v1"

PATIENCE_S = 3.0
"""How long a request waits for a database that is gone: whoever asks wants to be told so."""


def parts(settings: Settings) -> Context:
    """Return the parts of a service, on its storage.

    Raises:
        StorageError: the database cannot be opened.
    """
    storage = open_storage(settings.storage, patience_s=PATIENCE_S)
    assert isinstance(storage, SqlStorage)
    database = storage.database
    listing, launches = Listing(database), Launches(database)
    charts = Charts(listing)
    processes = Processes(database, settings.folder, address=settings.ray_address)
    documents = Studies(storage, listing, Labels(database), launches, charts)
    roots = Roots(processes.folder, roots=settings.roots, allow_modules=settings.allow_modules)
    return Context(
        storage=storage,
        studies=documents,
        charts=charts,
        tail=Tail(Stream(database), gaps=database.path is None),
        queue=Queue(
            processes,
            max_running=settings.max_running,
            allow_modules=settings.allow_modules,
        ),
        auth=Auth(database),
        audit=Audit(database),
        roots=roots,
        uploads=Uploads(roots.uploads),
        metrics=Metrics(listing, Counting(database), documents.summaries),
    )


def create_app(context: Context, settings: Settings) -> ASGIApp:
    """Return the application."""
    ticker = Ticker(context.queue.tick)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.tail.start(asyncio.get_running_loop())
        ticker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(ticker.close)
            await asyncio.to_thread(context.tail.close)
            context.storage.close()

    app = FastAPI(
        title="moeash",
        version=__version__,
        summary="Studies that make trained networks small: launched, watched, exported.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=problems.PROBLEMS,
        # Generated clients name their functions after it.
        generate_unique_id_function=lambda route: route.name,
    )
    problems.install(app, place=context.storage.url)
    app.add_middleware(Compressed, minimum_size=SMALLEST, compresslevel=LEVEL)
    api = APIRouter(prefix=API)
    for part in (studies, evaluations, events, exports, logs, cluster, specs):
        api.include_router(part.router(context))
    uses = Uses(context.storage, context.studies.listing, context.studies.launches)
    api.include_router(files.router(context.auth, context.uploads, uses))
    api.include_router(session.router(context.auth))
    api.include_router(tokens.router(context.auth, context.audit))
    app.include_router(api)
    app.include_router(health.router(context))
    app.include_router(metrics.router(context.auth, context.metrics))
    pages.add_pages(app)
    statuses.describe(app)
    return protect(
        app,
        audit=context.audit,
        hosts=allowed_hosts(settings.host, settings.allow_hosts),
        limits=BodyLimits(by_path={f"{API}/files": context.uploads.most_bytes}),
        observe=context.metrics.observe,
    )
