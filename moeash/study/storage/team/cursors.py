"""Cursors of pages: opaque texts of the sort key and the name of the last row.

So a page begins where the one before it ended, whatever was added meanwhile.
"""

import base64
import json
from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from moeash.errors import InputError


def beyond(
    key: ColumnElement[Any],
    name: ColumnElement[Any],
    value: Any,
    last: Any,
    *,
    downwards: bool,
) -> ColumnElement[bool]:
    """Return what is true of the rows after the last one of a page.

    Args:
        key: what is sorted by.
        name: what sorts rows of equal keys, upwards.
        value: the last row's key.
        last: the last row's name.
        downwards: whether the largest key comes first.
    """
    is_past = key < value if downwards else key > value
    return or_(is_past, and_(key == value, name > last))


def as_cursor(value: Any, last: Any) -> str:
    """Return the cursor of a page whose last row has this key and this name."""
    return base64.urlsafe_b64encode(json.dumps([value, last]).encode()).decode()


def values_of(text: str, *kinds: type) -> list[Any]:
    """Return what a cursor holds, after making sure that it is values of these kinds."""
    try:
        values = json.loads(base64.urlsafe_b64decode(text.encode()))
        if [type(value) for value in values] != list(kinds):
            raise ValueError
        if any(type(value) is int and abs(value) >= 2**63 for value in values):
            raise ValueError
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"after={text[:40]!r} is no cursor; take it from `next` of the page before"
        ) from error
    return list(values)
