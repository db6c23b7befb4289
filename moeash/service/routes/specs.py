"""Specs before they are studies: checked as they are typed, described, and offered as templates."""

from typing import Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from moeash.errors import InputError, SpecError
from moeash.service.context import Context
from moeash.service.problems import Fault, faults_of
from moeash.service.templates import Template, templates
from moeash.service.views.documents import Body
from moeash.service.views.toml import toml_of
from moeash.study.spec.reading import plain_of_text
from moeash.study.spec.schema import json_schema


class SpecText(Body):
    """A spec as a file says it."""

    toml: str = Field(max_length=1 << 18)


class SpecTable(Body):
    """A spec as plain values."""

    spec: dict[str, Any]


class Checked(BaseModel):
    """What is wrong with a spec; its values where it is TOML at all."""

    valid: bool
    errors: list[Fault]
    spec: dict[str, Any] | None


class Templates(BaseModel):
    """Specs to begin with."""

    items: list[Template]


def router(context: Context) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["specs"], dependencies=[Depends(context.auth.viewer)])

    @routes.post("/specs/check")
    def check_spec(text: SpecText) -> Checked:
        """Check a spec as the command line would, and as the service restricts it."""
        plain = _plain(text.toml)
        try:
            context.roots.admit(text.toml)
        except InputError as error:
            return Checked(valid=False, errors=faults_of(error), spec=plain)
        return Checked(valid=True, errors=[], spec=plain)

    @routes.post("/specs/toml")
    def write_spec(table: SpecTable) -> SpecText:
        """Write plain values as TOML; values that are null are left out."""
        return SpecText(toml=toml_of(table.spec))

    @routes.get("/schema")
    def show_schema() -> dict[str, Any]:
        """Describe what a spec may say, as JSON schema."""
        return json_schema()

    @routes.get("/templates")
    def list_templates() -> Templates:
        """List specs to begin with."""
        return Templates(items=templates())

    return routes


def _plain(toml: str) -> dict[str, Any] | None:
    try:
        return plain_of_text(toml)
    except SpecError:
        return None
