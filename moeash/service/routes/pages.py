"""The page: one HTML file for every address a person may type, and what it loads."""

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from moeash.service.web import web_folder

ADDRESSES = (
    "/",
    "/studies/{name}",
    "/studies/{name}/log",
    "/studies/{name}/solutions/{number}",
    "/compare",
    "/new",
    "/cluster",
    "/admin",
    "/login",
)


def add_pages(app: FastAPI) -> None:
    """Serve the page's files."""
    folder = web_folder()
    routes = APIRouter(include_in_schema=False)

    async def page() -> FileResponse:
        return FileResponse(folder / "index.html", headers={"Cache-Control": "no-cache"})

    for address in ADDRESSES:
        routes.add_api_route(address, page, methods=["GET"], response_class=FileResponse)
    app.include_router(routes)
    app.mount("/static", StaticFiles(directory=folder), name="static")
