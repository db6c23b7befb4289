"""Every route of an application, asked by everybody: who is let in is a table, and it is whole."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROLES = ("viewer", "operator", "admin")
Needed = Mapping[tuple[str, str], str | None]
"""The least role of each method and path; None: anybody."""


def operations(openapi: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield method and path of every operation an application describes."""
    for path, item in openapi["paths"].items():
        for method in item:
            if method in ("get", "post", "put", "patch", "delete", "head", "options"):
                yield method.upper(), path


def filled(path: str, values: Mapping[str, str]) -> str:
    """Return a path with something in the place of each parameter; 1 where no value is given."""
    return re.sub(r"{(\w+)}", lambda found: values.get(found[1], "1"), path)


def wrong_answers(
    openapi: Mapping[str, Any],
    ask: Callable[[str, str, Mapping[str, str], Any], int],
    bearer: Callable[[str], Mapping[str, str]],
    needed: Needed,
    *,
    values: Mapping[str, str] | None = None,
) -> list[str]:
    """Return what is not as the table says, a line each; an empty list is what one wants.

    A request is let in when it is answered by anything but 401 and 403: its path may name nothing,
    and its body is empty.

    Args:
        openapi: description of the application.
        ask: takes method, path, headers and JSON, and returns the status; must not wait for the
            end of a stream.
        bearer: returns the headers of a role.
        needed: must have all operations, and no others.
        values: of path parameters.
    """
    found = set(operations(openapi))
    lines = [f"{key} is not in the table" for key in sorted(found - set(needed))]
    lines += [f"{key} is in the table and not in the application" for key in set(needed) - found]
    shown: dict[str | None, Mapping[str, str]] = {role: bearer(role) for role in ROLES}
    for (method, path), least in needed.items():
        for role in (None, *ROLES):
            body = {} if method in ("POST", "PUT", "PATCH") else None
            status = ask(method, filled(path, values or {}), shown.get(role, {}), body)
            if least is None or (role is not None and ROLES.index(role) >= ROLES.index(least)):
                is_right = status not in (401, 403)
            else:
                is_right = status == (401 if role is None else 403)
            if not is_right:
                lines.append(f"{method} {path} as {role}: {status}, and needs {least}")
    return lines
