"""URLs of databases as they may be shown: in messages, lists and logs, which others read."""

import re

_IN_FRONT = re.compile(r"^([^:/?#]*://[^:/?#@]*):.*(?=@)", re.DOTALL)
"""A password behind a user's name, up to the last ``@``, as people forget to escape ``/``."""

_IN_QUERY = re.compile(r"([?&;][^=&;]*(?:password|passwd|pwd)[^=&;]*)=[^&;]*", re.IGNORECASE)
"""A password as an option, as drivers take them too."""


def has_password_option(url: str) -> bool:
    """Tell whether an option of a URL is a password."""
    return _IN_QUERY.search("?" + url.partition("?")[2]) is not None


def without_password(url: str) -> str:
    """Return a URL with three stars for each password, whether or not it is a sound one.

    Example:
        >>> without_password("postgresql://me:secret@host/db?password=secret&sslmode=require")
        'postgresql://me:***@host/db?password=***&sslmode=require'
    """
    return _IN_QUERY.sub(r"\1=***", _IN_FRONT.sub(r"\1:***", url))
