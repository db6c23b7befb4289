"""Exports: asked for, followed, downloaded."""

import pathlib
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from moeash.errors import NothingMeetsError
from moeash.exports.formats.names import FormatName
from moeash.launch.base import Export, PickName
from moeash.launch.exports import ExportState, export_state, exported_file, log_of
from moeash.launch.logs import read_piece
from moeash.service.access.auth import Identity
from moeash.service.context import Context
from moeash.service.problems import MEDIA_TYPE, Problem, answer
from moeash.service.protection.logs import mention
from moeash.service.views.documents import Body
from moeash.service.views.etags import unchanged
from moeash.service.views.exports import Number, export_of

LISTED = 100
"""Exports of a study that a list shows: the last ones."""

LOG_BYTES = 1 << 20
"""Bytes of a log that are shown: the last ones."""


class NewExport(Body):
    """A solution to export: one by its number, or one that a rule takes from the front."""

    pick: PickName | None = Field(None, description="Which of the front; default smallest.")
    id: int | None = Field(None, ge=1, lt=2**31, description="A solution's number instead.")
    max_drop: float | None = Field(
        None, allow_inf_nan=False, description="At most so far below the float network."
    )
    max_bytes: int | None = Field(None, ge=0, lt=2**62, description="At most so many bytes.")
    formats: list[FormatName] = Field(["moeash"], min_length=1, max_length=10)


class Exports(BaseModel):
    """The last exports of a study, oldest first."""

    items: list[ExportState]


FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        "description": "The file, or the part that `Range` asks for; its digest in "
        "`X-Checksum-Sha256`.",
    },
    206: {"description": "The part that `Range` asks for."},
    304: {"description": "It is the one of the tag that was sent."},
    416: {
        "description": "The file has no such part.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    },
}


class Download(FileResponse):
    """A file, whose refusals are problems as all others are."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        refused = False

        async def sending(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                refused = message["status"] >= 400
            if not refused:
                await send(message)

        await super().__call__(scope, receive, sending)
        if refused:
            size = pathlib.Path(self.path).stat().st_size
            asked = Headers(scope=scope).get("range", "")
            detail = f"Range is {asked!r}, and the file has {size:,} bytes; ask for bytes=FROM-TO"
            extra = {"Content-Range": f"bytes */{size}"}
            await answer(Problem(416, "no-such-range", detail, headers=extra), scope, send)


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["exports"])
    studies, auth, queue = context.studies, context.auth, context.queue
    launches = queue.launches

    @routes.post("/studies/{name}/exports", status_code=202)
    def create_export(
        name: str,
        new: NewExport,
        response: Response,
        who: Annotated[Identity, Depends(auth.operator)],
    ) -> ExportState:
        """Begin to export a solution: it is built again, written, read back and compared."""
        asked = Export(name, **new.model_dump(exclude={"formats"}), formats=tuple(new.formats))
        study = studies.study(name)
        if asked.id is not None:
            study.solution(asked.id)
        else:
            rule = studies.pick(study, asked.pick or "smallest", asked.max_bytes, asked.max_drop)
            if rule.solution is None:
                raise NothingMeetsError(rule.reason or "no solution is within the limits")
        record = queue.enqueue(asked, who.name)
        mention(made=str(record.id))
        response.headers["Location"] = f"/api/v1/exports/{record.id}"
        return export_state(record)

    @routes.get("/studies/{name}/exports", dependencies=[Depends(auth.viewer)])
    def list_exports(name: str) -> Exports:
        """List the last exports of a study."""
        studies.item(name)
        found = launches.of_study(name, "export", limit=LISTED)
        return Exports(items=[export_state(record) for record in reversed(found)])

    @routes.get("/exports/{id}", dependencies=[Depends(auth.viewer)])
    def show_export(id: Number) -> ExportState:
        """Show where an export stands, and what it verified."""
        return export_state(export_of(launches, id))

    @routes.get(
        "/exports/{id}/files/{file}",
        dependencies=[Depends(auth.viewer)],
        response_class=FileResponse,
        responses=FILE,
    )
    def download_file(id: Number, file: str, request: Request) -> Response:
        """Download a file, or a part of it."""
        record = export_of(launches, id)
        names = [known.name for known in export_state(record).files]
        if file not in names:
            others = f"it has {', '.join(names)}" if names else "it has none, see its status"
            raise Problem(404, "no-such-file", f"export {id} has no file {file!r}; {others}")
        path, known = exported_file(record, file)
        tag = f'"{known.sha256}"'
        headers = {"ETag": tag, "X-Checksum-Sha256": known.sha256, "Cache-Control": "private"}
        if unchanged(request, tag):
            return Response(status_code=304, headers=headers)
        return Download(
            path, media_type="application/octet-stream", headers=headers, filename=known.name
        )

    @routes.get(
        "/exports/{id}/log",
        dependencies=[Depends(auth.viewer)],
        response_class=PlainTextResponse,
    )
    def show_export_log(id: Number) -> PlainTextResponse:
        """Show what the process of an export has printed."""
        piece = read_piece(log_of(export_of(launches, id)), -LOG_BYTES, limit=LOG_BYTES)
        return PlainTextResponse(piece.text, headers={"Cache-Control": "no-store"})

    return routes
