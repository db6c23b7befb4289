"""Who works, and what waits."""

import os
import platform
import shutil
from collections.abc import Sequence

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from moeash.launch.exports import doing_of
from moeash.launch.identity import host
from moeash.service.context import Context
from moeash.study.storage.team.launch import Kind, LaunchRecord
from moeash.study.storage.team.listing import Wanted

MOST = 200
"""Studies that are shown as running without having been launched."""


class Running(BaseModel):
    """A launch that runs, or a study that somebody runs in a terminal.

    Attributes:
        id: of the launch; None of what was not launched.
        study: its name.
        kind: a study's run, or an export.
        host: machine of its process; None of what was not launched.
        started_at: UTC, ISO 8601.
        requested_by: who asked for it; None of what was not launched.
        workers: that live.
        doing: what is being done now, in words.
    """

    id: int | None
    study: str
    kind: Kind
    host: str | None
    started_at: str
    requested_by: str | None
    workers: int
    doing: str | None


class Waiting(BaseModel):
    """A launch that waits for its turn.

    Attributes:
        id: of the launch.
        study: its name.
        kind: a study's run, or an export; each kind has a queue of its own.
        position: 1 for the next.
        requested_by: who asked for it.
        requested_at: UTC, ISO 8601.
    """

    id: int
    study: str
    kind: Kind
    position: int
    requested_by: str
    requested_at: str


class Machine(BaseModel):
    """The machine of the service.

    Attributes:
        name: of it.
        cores: that it has.
        load: of its last minute: processes that run or wait for a core.
        memory_bytes: that it has.
        free_memory_bytes: that are free.
        free_disk_bytes: that are free where the service keeps files.
        python: version that it runs.
    """

    name: str
    cores: int
    load: float
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int
    python: str


class Cluster(BaseModel):
    """Who works, and what waits.

    Attributes:
        launcher: ``process`` of this machine, or ``ray``.
        max_running: studies that this service runs at a time.
        max_exports: exports that it runs at a time.
        running: oldest first.
        queue: the next first.
        host: machine of the service.
    """

    launcher: str
    max_running: int
    max_exports: int
    running: list[Running]
    queue: list[Waiting]
    host: Machine


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["cluster"], dependencies=[Depends(context.auth.viewer)])
    studies, queue = context.studies, context.queue
    processes = queue.processes

    @routes.get("/cluster")
    def show_cluster() -> Cluster:
        """Show what runs, what waits, and the machine of the service."""
        active = queue.launches.active()
        positions = queue.positions()
        waiting = [record for record in active if record.id in positions]
        return Cluster(
            launcher="process" if processes.address is None else "ray",
            max_running=queue.max_running,
            max_exports=queue.max_exports,
            running=_running([r for r in active if r.state == "running"]),
            queue=[
                Waiting(
                    id=record.id,
                    study=record.study,
                    kind=record.kind,
                    position=positions[record.id],
                    requested_by=record.requested_by,
                    requested_at=record.requested_at,
                )
                for record in sorted(waiting, key=lambda record: positions[record.id])
            ],
            host=_machine(),
        )

    def _running(records: Sequence[LaunchRecord]) -> list[Running]:
        items = dict(studies.items(sorted({record.study for record in records})))
        found = []
        for record in records:
            item = items.get(record.study) if record.kind == "run" else None
            found.append(
                Running(
                    id=record.id,
                    study=record.study,
                    kind=record.kind,
                    host=(record.place or {}).get("host"),
                    started_at=record.started_at or record.requested_at,
                    requested_by=record.requested_by,
                    workers=0 if item is None else item.workers,
                    doing=doing_of(record) if item is None else item.doing,
                )
            )
        launched = {record.study for record in records if record.kind == "run"}
        page = studies.page(Wanted("running", None, None, False), "updated", None, MOST)
        found += [
            Running(
                id=None,
                study=item.name,
                kind="run",
                host=None,
                started_at=item.updated_at,
                requested_by=None,
                workers=item.workers,
                doing=item.doing,
            )
            for item in page.items
            if item.name not in launched
        ]
        return found

    def _machine() -> Machine:
        page = os.sysconf("SC_PAGE_SIZE")
        folder = processes.folder
        while not folder.exists():  # it is made when the first launch needs it
            folder = folder.parent
        return Machine(
            name=host(),
            cores=os.cpu_count() or 1,
            load=os.getloadavg()[0],
            memory_bytes=page * os.sysconf("SC_PHYS_PAGES"),
            free_memory_bytes=page * os.sysconf("SC_AVPHYS_PAGES"),
            free_disk_bytes=shutil.disk_usage(folder).free,
            python=platform.python_version(),
        )

    return routes
