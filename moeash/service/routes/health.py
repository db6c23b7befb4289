"""Whether the service lives, and whether it can do its work."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from moeash.errors import StorageError
from moeash.service.context import Context
from moeash.study.storage.team.listing import Listing


class Health(BaseModel):
    """An answer at all is what counts."""

    status: str


def router(context: Context) -> APIRouter:
    """Return the routes, which are open."""
    routes = APIRouter(tags=["health"])
    listing: Listing = context.studies.listing

    @routes.get("/healthz")
    async def lives() -> Health:
        """Say that the process lives."""
        return Health(status="ok")

    @routes.get("/readyz", responses={503: {"model": Health, "description": "Not ready"}})
    def is_ready(response: Response) -> Health:
        """Say whether storage answers."""
        try:
            listing.stamps([])
        except StorageError:
            response.status_code = 503
            return Health(status="storage does not answer")
        return Health(status="ok")

    return routes
