"""Answers that need not be sent twice."""

import hashlib

from fastapi import Request


def etag_of(*parts: object) -> str:
    """Return the tag of an answer that these values determine."""
    return f'"{hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()}"'


def unchanged(request: Request, tag: str) -> bool:
    """Tell whether whoever asks has the answer of this tag already."""
    given = request.headers.get("if-none-match", "")
    return tag in [part.strip().removeprefix("W/") for part in given.split(",")]
