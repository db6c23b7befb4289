"""Which errors each operation may answer with: the description of the service is made from this.

What follows from the shape of an operation is a rule, what is its own is in :data:`OWN`. A test
asks every operation with what its description allows and more, and fails at a status that is not
described.
"""

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from moeash.service.problems import MEDIA_TYPE

API = "/api/v1"
STUDY = f"{API}/studies/{{name}}"

DOOR = (400, 403, 421)
"""An address with a null character; a page of another origin that changes something; a name that
this service does not have."""

LOGGED_IN = (401, 403, 429, 503)
"""Nobody, too little, too many wrong tokens; and the database, which knows the tokens, is gone."""

BODY = (400, 408, 413, 415, 422)
"""No JSON, too slow, too large, of a type that forms could send, and not what it should be."""

OWN: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/readyz"): (503,),
    ("POST", f"{API}/session"): LOGGED_IN,
    ("DELETE", f"{API}/session"): (503,),
    ("POST", f"{API}/studies"): (409,),
    ("DELETE", STUDY): (409,),
    ("POST", f"{STUDY}/clone"): (409,),
    ("POST", f"{STUDY}/start"): (409,),
    ("POST", f"{STUDY}/exports"): (409,),
    ("GET", f"{STUDY}/points"): (304,),
    ("POST", f"{API}/files"): (409, 507),
    ("DELETE", f"{API}/files/{{file}}"): (409,),
}
"""What else an operation may answer with."""

WORDS = {
    304: "What you have is what there is",
    400: "The address holds a null character, or the body is no JSON",
    401: "Nobody is logged in",
    403: "Your role may not do this, or a page of another origin asked for it",
    404: "There is none of that name",
    409: "It stands in the way of what is there",
    413: "The body is too large",
    421: "This service is not called that",
    422: "What was sent is not what was needed",
    429: "Too many wrong tokens; wait",
    503: "The storage, or what else this needs, is not there at the moment; try again",
}


def statuses(method: str, path: str, operation: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the statuses below 200 and above 299 of an operation.

    Args:
        method: in capitals.
        path: with its parameters in braces.
        operation: as OpenAPI describes it.
    """
    found = {*DOOR, *OWN.get((method, path), ())}
    if operation.get("security"):
        found.update(LOGGED_IN)
    if "requestBody" in operation:
        found.update(BODY)
    if operation.get("parameters"):
        found.add(422)
    if any(each["in"] == "path" for each in operation.get("parameters", ())):
        found.add(404)
    return tuple(sorted(found))


def operations(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation."""
    for path, item in schema["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def describe(app: FastAPI) -> None:
    """Make an application's description name the errors of each operation, and no others."""
    plain: Callable[[], dict[str, Any]] = app.openapi
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            for method, path, operation in operations(schema):
                answers = operation["responses"]
                answers.pop("default", None)
                for status in statuses(method, path, operation):
                    words = WORDS.get(status, HTTPStatus(status).phrase)
                    answers[str(status)] = {"description": words}
                    if status >= 400:
                        answers[str(status)]["content"] = problem
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
