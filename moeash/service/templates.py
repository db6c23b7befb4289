"""Specs to begin with: the studies that are shipped."""

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel


class Template(BaseModel):
    """A spec to begin with.

    Attributes:
        name: of its study.
        title: what it is, in its own first words.
        toml: the spec as a file, with its comments.
    """

    name: str
    title: str
    toml: str


_SHIPPED = Path(__file__).with_name("shipped")
"""In a checkout links to ``studies/*.toml``, in a wheel their copies."""


@cache
def templates() -> list[Template]:
    """Return the shipped studies, the smallest first."""
    found = []
    for path in sorted(_SHIPPED.glob("*.toml")):
        text = path.read_text(encoding="utf-8")
        title = text.partition("\n")[0].removeprefix("#").strip()
        found.append(Template(name=tomllib.loads(text)["name"], title=title, toml=text))
    return sorted(found, key=lambda template: (template.name != "digits", template.name))
