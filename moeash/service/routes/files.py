"""Uploads: checkpoints, solutions and specs that studies of the service may name."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated

from anyio import from_thread, to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from moeash.service.access.auth import Auth, Identity
from moeash.service.access.uploads import Uploads
from moeash.service.access.uses import Uses
from moeash.service.problems import Problem

PIECE = 1 << 20
"""Bytes written at a time."""


class File(BaseModel):
    """An uploaded file."""

    name: str = Field(description="What a spec calls it, as in network.checkpoint.")
    path: str = Field(description="The whole path on the service's machine.")
    size_bytes: int
    sha256: str
    uploaded_by: str | None = Field(description="Whose it is: theirs to delete, and an admin's.")


class FileList(BaseModel):
    """All uploaded files, by name."""

    items: list[File]


BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def router(auth: Auth, uploads: Uploads, uses: Uses) -> APIRouter:
    """Return the routes.

    Args:
        auth: lets people in.
        uploads: the folder.
        uses: which study needs a file.
    """
    routes = APIRouter(prefix="/files", tags=["files"])

    @routes.post(
        "",
        status_code=201,
        openapi_extra=BODY,
        summary="Upload a checkpoint or a spec",
        responses={200: {"description": "That very file was there already", "model": File}},
    )
    async def upload_file(
        request: Request,
        response: Response,
        name: Annotated[str, Query(max_length=200, description="With its ending.")],
        who: Annotated[Identity, Depends(auth.operator)],
    ) -> File:
        """Store a safetensors, torch (a state_dict) or moeash file, or a TOML spec."""
        pieces = _pieces(request)

        async def following() -> bytes:
            return await anext(pieces, b"")

        try:
            stored, is_new = await to_thread.run_sync(
                uploads.store, name, lambda: from_thread.run(following), who.name
            )
        except ClientDisconnect as error:
            raise Problem(400, "upload-broken-off", "the upload was broken off") from error
        if not is_new:
            response.status_code = 200
        return File(**asdict(stored))

    @routes.get("", dependencies=[Depends(auth.viewer)], summary="List uploaded files")
    def list_files() -> FileList:
        """Return all uploaded files."""
        return FileList(items=[File(**asdict(upload)) for upload in uploads.all()])

    @routes.delete("/{file}", status_code=204, summary="Delete an uploaded file")
    def delete_file(
        file: Annotated[str, Path(max_length=200)],
        who: Annotated[Identity, Depends(auth.operator)],
    ) -> None:
        """Delete a file that one has uploaded, an admin anybody's; not while a study needs it."""
        uploads.remove(file, None if who.role == "admin" else who.name, uses.of)

    return routes


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    held = bytearray()
    async for chunk in request.stream():
        held += chunk
        if len(held) >= PIECE:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)
