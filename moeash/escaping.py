"""Text of others: names, notes and messages come from files, databases and code.

A terminal obeys what it is sent: it moves the cursor, hides and reorders text. So whatever is
printed goes through :func:`visible`, which shows such characters instead, and so does what is
written for people to read.
"""


def visible(text: str, *, keep: str = "") -> str:
    r"""Return a text in which every character that is not seen is written out.

    Args:
        text: perhaps with control characters, bidirectional marks, or line ends in one line.
        keep: characters to leave, such as a line end in a text of several lines.

    Example:
        >>> print(visible("a\n\x1b[2Kb\u202e"))
        a\n\x1b[2Kb\u202e
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )
