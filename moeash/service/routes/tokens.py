"""Tokens and the audit, for admins."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import BaseModel, Field

from moeash.errors import InputError
from moeash.service.access.auth import Auth
from moeash.service.problems import Problem
from moeash.service.protection.logs import mention
from moeash.service.views.documents import Body
from moeash.study.storage.access.audit import Audit, AuditRecord
from moeash.study.storage.access.roles import Role
from moeash.study.storage.access.tokens import LONGEST_NAME, MOST_DAYS, TokenRecord

MOST_ROWS = 500
MOST_ID = 2**31 - 1
"""Largest number that databases count up to by themselves."""


class NewToken(Body):
    """A token to make."""

    name: str | None = Field(None, min_length=1, max_length=LONGEST_NAME)
    role: Role
    expires_days: float | None = Field(None, gt=0, le=MOST_DAYS)


class MadeToken(BaseModel):
    """A token that was made; its secret is shown this once."""

    id: int
    name: str
    role: Role
    expires_at: str | None
    token: str


class Token(BaseModel):
    """A token, without its secret."""

    id: int
    name: str
    role: Role
    state: Literal["valid", "expired", "revoked"]
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    used_at: str | None = Field(description="To about a minute.")


class TokenList(BaseModel):
    """All tokens, oldest first."""

    items: list[Token]


class AuditPage(BaseModel):
    """What was done, newest first."""

    items: list[AuditRecord]
    next: int | None = Field(description="The `after` of the next page; null: there is none.")


def router(auth: Auth, audit: Audit) -> APIRouter:
    """Return the routes.

    Args:
        auth: has the tokens.
        audit: is shown.
    """
    routes = APIRouter(tags=["admin"], dependencies=[Depends(auth.admin)])

    @routes.get("/tokens", summary="List tokens")
    def list_tokens() -> TokenList:
        """Return all tokens, with those that let nobody in any more."""
        return TokenList(items=[_shown(record) for record in auth.tokens.list()])

    @routes.post("/tokens", status_code=201, summary="Make a token")
    def create_token(new: NewToken) -> MadeToken:
        """Make a token. Its secret is in this answer and nowhere else."""
        record, secret = auth.tokens.create(new.role, name=new.name, expires_days=new.expires_days)
        mention(made=record.name)
        return MadeToken(
            id=record.id,
            name=record.name,
            role=record.role,
            expires_at=record.expires_at,
            token=secret,
        )

    @routes.delete("/tokens/{id}", status_code=204, summary="Revoke a token")
    def revoke_token(id: Annotated[int, Path(ge=1, le=MOST_ID)]) -> Response:
        """Let nobody in with a token any more, nor with a session that began with it."""
        try:
            auth.tokens.revoke(id)
        except InputError as error:
            raise Problem(404, "no-such-token", str(error)) from error
        return Response(status_code=204)

    @routes.get("/audit", summary="Who did what")
    def list_audit(
        after: Annotated[
            int | None, Query(ge=1, le=MOST_ID, description="The `next` of the page before.")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_ROWS)] = 100,
    ) -> AuditPage:
        """Return what was done, newest first."""
        rows = audit.page(before=after, limit=limit + 1)
        shown = list(rows[:limit])
        return AuditPage(items=shown, next=shown[-1].id if len(rows) > limit else None)

    return routes


def _shown(record: TokenRecord) -> Token:
    return Token.model_validate({**vars(record), "state": record.state})
