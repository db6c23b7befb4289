"""What people show to be let in, and moments that decide whether it still counts."""

import hashlib
import secrets
from datetime import UTC, datetime

N_BYTES = 32
"""Randomness of a secret. So much cannot be guessed, so a fast digest of it is safe to store."""


def new_secret(prefix: str) -> str:
    """Return a new secret; the prefix lets scanners of code tell what has leaked."""
    return prefix + secrets.token_urlsafe(N_BYTES)


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a secret: what is stored of it, and looked for.

    A comparison of digests tells by its time at most how a digest begins, which says nothing of
    the secret; so an index of the database may look for it.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def present() -> datetime:
    """Return this moment."""
    return datetime.now(UTC)


def written(moment: datetime) -> str:
    """Return a moment as it is stored."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def moment_of(text: str) -> datetime:
    """Return a stored moment.

    Raises:
        ValueError: it is none, or says no zone.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r:.60} says no zone")
    return moment
