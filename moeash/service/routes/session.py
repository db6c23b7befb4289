"""Logging in and out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, model_validator

from moeash import __version__
from moeash.service.access.auth import (
    COOKIE_AGE_S,
    Auth,
    Cookie,
    Identity,
    address_of,
    cookie_settings,
)
from moeash.service.problems import Problem
from moeash.service.protection.origins import is_own_page
from moeash.service.views.documents import Body
from moeash.study.storage.access.roles import Role

Secret = Annotated[str, Field(min_length=1, max_length=500)]


class Login(Body):
    """What is shown to log in: one of the two."""

    code: Secret | None = Field(None, description="Of the link that `moeash serve` prints.")
    token: Secret | None = Field(None, description="Made by `moeash token create`.")

    @model_validator(mode="after")
    def _one(self) -> "Login":
        if (self.code is None) == (self.token is None):
            raise ValueError("needed code or token, one of them")
        return self


class Known(BaseModel):
    """Who is logged in."""

    name: str
    role: Role


class Session(Known):
    """Who is logged in, and to what."""

    version: str = Field(description="Of moeash.")


def router(auth: Auth) -> APIRouter:
    """Return the routes.

    Args:
        auth: lets people in.
    """
    routes = APIRouter(prefix="/session", tags=["session"])

    @routes.post("", summary="Log in a browser")
    def log_in(login: Login, request: Request, response: Response) -> Known:
        """Begin a session, and set its cookie."""
        address = address_of(request)
        if login.code is not None:
            identity, cookie = auth.login_with_code(login.code, address)
        else:
            identity, cookie = auth.login_with_token(str(login.token), address)
        request.state.identity = identity
        settings = cookie_settings(request)
        response.set_cookie(value=cookie, max_age=COOKIE_AGE_S, **settings)  # type: ignore[arg-type]
        return Known(name=identity.name, role=identity.role)

    @routes.get("", summary="Who am I")
    def get_session(identity: Annotated[Identity, Depends(auth.viewer)]) -> Session:
        """Return who asks."""
        return Session(name=identity.name, role=identity.role, version=__version__)

    @routes.delete("", status_code=204, summary="Log out a browser")
    def log_out(request: Request, cookie: Cookie = None) -> Response:
        """End the session of the cookie, and forget it."""
        if cookie is not None:
            if not is_own_page(request.scope):
                raise Problem(403, "foreign-origin", "only the own page may log out")
            auth.sessions.end(cookie)
        response = Response(status_code=204)
        response.delete_cookie(**cookie_settings(request))  # type: ignore[arg-type]
        return response

    return routes
