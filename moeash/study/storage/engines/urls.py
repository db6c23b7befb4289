"""URLs of databases as they may be shown: in messages, lists and logs, which others read."""

import re
from urllib.parse import unquote

_IN_FRONT = re.compile(r"^([^:/?#]*://[^:/?#@]*):.*(?=@)", re.DOTALL)
"""A password behind a user's name, up to the last ``@``, as people forget to escape ``/``."""

_OPTION = re.compile(r"([?&;])([^=&;]*)=[^&;]*")
_PASSWORD = re.compile("password|passwd|pwd", re.IGNORECASE)
"""In the name of an option, which drivers take a password as too."""


def has_password_option(url: str) -> bool:
    """Tell whether an option of a URL is a password."""
    query = "?" + url.partition("?")[2]
    return any(_is_password(option) for option in _OPTION.finditer(query))


def without_password(url: str) -> str:
    """Return a URL with three stars for each password, whether or not it is a sound one.

    Example:
        >>> without_password("postgresql://me:secret@host/db?password=secret&sslmode=require")
        'postgresql://me:***@host/db?password=***&sslmode=require'
    """
    return _OPTION.sub(_hidden, _IN_FRONT.sub(r"\1:***", url))


def _is_password(option: re.Match[str]) -> bool:
    # Drivers read escaped letters of an option's name too.
    return _PASSWORD.search(unquote(option[2])) is not None


def _hidden(option: re.Match[str]) -> str:
    return f"{option[1]}{option[2]}=***" if _is_password(option) else option[0]
