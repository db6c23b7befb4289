"""What a launched process prints: a file that grows, read in pieces by whoever wants to."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 64 * 1024
LAST_BYTES = 4096
LAST_LINES = 4
POLL_S = 0.2


@dataclass(frozen=True)
class Piece:
    """A part of a log.

    Attributes:
        text: of it.
        next: byte at which the next part begins.
    """

    text: str
    next: int


def read_piece(path: Path, start: int = 0, *, limit: int = PIECE_BYTES) -> Piece:
    """Return what a log holds from a byte on; nothing of a log that is not there yet.

    Args:
        path: of the log.
        start: byte to begin at; negative: so many before the end.
        limit: at most so many bytes.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size + start) if start < 0 else min(start, size)
            file.seek(start)
            content = file.read(limit)
    except FileNotFoundError:
        return Piece("", 0)
    whole = content[: len(content) - _unfinished(content)] or content
    return Piece(whole.decode("utf-8", "replace"), start + len(whole))


def follow(path: Path, ended: Callable[[], bool]) -> Iterator[str]:
    """Yield a log in pieces until whoever writes it has ended.

    Args:
        path: of the log.
        ended: tells whether nothing will be written any more.
    """
    start = 0
    while True:
        is_over = ended()  # asked before reading: what is written until then is read
        while (piece := read_piece(path, start)).text:
            start = piece.next
            yield piece.text
        if is_over:
            return
        time.sleep(POLL_S)


def last_lines(path: Path, n: int = LAST_LINES) -> str:
    """Return the last ``n`` lines of a log in one; empty when there are none."""
    piece = read_piece(path, -LAST_BYTES, limit=LAST_BYTES)
    # A bar that was drawn anew in place of itself is what was seen last.
    lines = [line.rpartition("\r")[2].strip() for line in piece.text.split("\n")]
    return " / ".join([line for line in lines if line][-n:])


def _unfinished(content: bytes) -> int:
    """Return how many bytes at the end begin a character that is not complete."""
    for n in range(1, min(4, len(content) + 1)):
        byte = content[-n]
        if byte < 0x80:
            return 0
        if byte >= 0xC0:
            wanted = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return n if wanted > n else 0
    return 0
