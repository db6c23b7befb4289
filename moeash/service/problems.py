"""Errors as problem details (RFC 9457), with moeash's own texts."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope, Send

from moeash.core.plain import json_text
from moeash.errors import (
    BackendError,
    InputError,
    LaunchNotFoundError,
    MoeashError,
    SpecError,
    StorageError,
    StudyExistsError,
    StudyLockedError,
    StudyNotFoundError,
)
from moeash.options.tables import problems_of
from moeash.study.spec.spec import StudySpec

_log = logging.getLogger("moeash.service")

MEDIA_TYPE = "application/problem+json"


class Fault(BaseModel):
    """One fault of what was sent."""

    path: str = Field(description="Where it is, such as search.k; empty: nowhere in particular.")
    text: str = Field(description="What came and what was needed.")


class ProblemDocument(BaseModel):
    """What every answer of an error is."""

    type: str = Field(description="Stable name of the kind of problem, /problems/NAME.")
    title: str
    status: int
    detail: str = Field(description="What came, what was needed, what to do.")
    errors: list[Fault] | None = None
    request_id: str = Field(description="To find the request in the log by.")


class Problem(HTTPException):
    """An answer that is an error. It may be raised anywhere below the application.

    Attributes:
        name: stable name of the kind of problem.
        errors: single faults of what was sent.
    """

    def __init__(
        self,
        status: int,
        name: str,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.name = name
        self.errors = tuple(errors)

    def document(self, request_id: str) -> dict[str, Any]:
        """Return the body of the answer."""
        document = ProblemDocument(
            type=f"/problems/{self.name}",
            title=HTTPStatus(self.status_code).phrase,
            status=self.status_code,
            detail=self.detail,
            errors=list(self.errors) or None,
            request_id=request_id,
        )
        return document.model_dump(exclude_none=True)


STATUS: tuple[tuple[type[MoeashError], int, str], ...] = (
    (StudyNotFoundError, 404, "no-such-study"),
    (LaunchNotFoundError, 404, "no-such-export"),
    (StudyExistsError, 409, "study-exists"),
    (StudyLockedError, 409, "study-locked"),
    (StorageError, 503, "storage"),
    (BackendError, 503, "backend"),
    (SpecError, 422, "spec"),
    (InputError, 422, "input"),
)
"""What moeash's own errors are as answers, the first that fits. Others are a bug, and 500."""

PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "Problem details (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        "model": ProblemDocument,
    }
}
"""For ``FastAPI(responses=...)``: any request may end in a problem, at the latest at the door."""


DESCRIPTION = "/api/v1/openapi.json"

LONGEST_SHOWN = 60
"""Characters of what came that an answer repeats."""

_PLACE = re.compile(r"(unknown key )?'?(\w[\w-]*(?:\.[\w-]+|\[\d+\])*)'?(?=[\s:;,]|$)")
_TABLES = frozenset(field.name for field in fields(StudySpec))


def faults_of(error: InputError) -> list[Fault]:
    """Return what an error refuses, one by one, each with its place in the spec."""
    faults = []
    for text in problems_of(error):
        found = _PLACE.match(text)
        place = found[2] if found is not None else ""
        is_place = found is not None and (found[1] or re.split(r"[.[]", place)[0] in _TABLES)
        faults.append(Fault(path=place if is_place else "", text=text))
    return faults


def install(app: FastAPI, *, place: str = "") -> None:
    """Make an application answer every error with a problem.

    Args:
        app: the application.
        place: of its storage, which is nobody's business who asks over the network.
    """

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _response(_problem_of(error, request), request)

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _response(_invalid(error), request)

    def failed(request: Request, error: Exception) -> Response:
        for kind, status, name in STATUS:
            if isinstance(error, kind):
                faults = faults_of(error) if isinstance(error, SpecError) else ()
                text = str(error).replace(place, "the storage") if place else str(error)
                return _response(Problem(status, name, text, errors=faults), request)
        return broken(request, error)

    def broken(request: Request, error: Exception) -> Response:
        # With its traceback, below the middleware that knows what the request is about.
        _log.error("%s: %s", type(error).__name__, error, exc_info=error)
        problem = Problem(
            500,
            "internal",
            "something in the service itself has failed; its log says what, under the id of this "
            "request",
        )
        return _response(problem, request)

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(MoeashError, failed)
    app.add_exception_handler(Exception, broken)


def _problem_of(error: HTTPException, request: Request) -> Problem:
    if isinstance(error, Problem):
        return error
    if error.status_code == 404:
        detail = f"there is nothing at {request.url.path}; {DESCRIPTION} lists what there is"
        return Problem(404, "not-found", detail)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method} is not for {request.url.path}; {allowed} is"
        return Problem(405, "method-not-allowed", detail, headers=error.headers)
    phrase = HTTPStatus(error.status_code).phrase
    name = phrase.lower().replace(" ", "-")
    return Problem(error.status_code, name, str(error.detail or phrase), headers=error.headers)


def _invalid(error: RequestValidationError) -> Problem:
    faults = [
        Fault(
            # The first part says whether it is of the body, the path or the query.
            path="" if fault["type"] == "json_invalid" else ".".join(map(str, fault["loc"][1:])),
            text=_text_of(fault),
        )
        for fault in error.errors()
    ]
    texts = [f"{fault.path}: {fault.text}".removeprefix(": ") for fault in faults]
    return Problem(422, "invalid-request", "; ".join(texts), errors=faults)


def _text_of(fault: Mapping[str, Any]) -> str:
    """Return what came and what was needed, of a fault as pydantic has it."""
    kind, came = fault["type"], fault.get("input")
    if kind == "json_invalid":
        return f"the body is no JSON: {fault['ctx']['error']} at character {fault['loc'][-1]}"
    if fault["loc"] == ("body",):
        return "a JSON object is needed as the body, with Content-Type: application/json"
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "is not known here"
    text = str(fault["msg"]).removeprefix("Value error, ")
    needed = text.removeprefix("Input should be ")
    if needed == text or not isinstance(came, str | int | float | bool):
        return text
    shown = repr(came)
    if len(shown) > LONGEST_SHOWN:
        shown = f"{shown[:LONGEST_SHOWN]}..."
    return f"{shown} came, needed {needed}"


def _response(problem: Problem, request: Request) -> Response:
    body = json_text(problem.document(request_id_of(request.scope)))
    return Response(body, problem.status_code, problem.headers, MEDIA_TYPE)


def request_id_of(scope: Scope) -> str:
    """Return the id of a request, as its answer and the log have it."""
    return str(scope.get("state", {}).get("request_id", ""))


async def answer(problem: Problem, scope: Scope, send: Send) -> None:
    """Answer with a problem, below any framework."""
    body = json_text(problem.document(request_id_of(scope))).encode()
    headers = {
        "content-type": MEDIA_TYPE,
        "content-length": str(len(body)),
        **{name.lower(): value for name, value in (problem.headers or {}).items()},
    }
    await send(
        {
            "type": "http.response.start",
            "status": problem.status_code,
            "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
