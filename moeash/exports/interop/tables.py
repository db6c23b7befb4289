"""The evaluations of a study as a table, for other tools."""

import io
from pathlib import Path
from typing import Literal, get_args

from moeash.core.plain import json_text
from moeash.errors import ExportError, InputError
from moeash.files import replacing, write_flushed
from moeash.study.study import Study

TableKind = Literal["csv", "json", "parquet"]
TABLE_KINDS: tuple[TableKind, ...] = get_args(TableKind)
"""Kinds of tables, each named like the ending of its files."""


def table_bytes(study: Study, kind: TableKind) -> bytes:
    """Return the file of all evaluations, a row each, as ``Study.to_dataframe`` has them.

    Raises:
        ExportError: Parquet is asked for and pyarrow is not installed.
    """
    frame = study.to_dataframe()
    if kind == "csv":
        return frame.to_csv(index=False).encode()
    if kind == "json":
        return json_text(frame.to_dict(orient="records")).encode()
    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, index=False)
    except ImportError as exc:
        raise ExportError(
            "Parquet needs pyarrow; install it with: pip install pyarrow, or ask for CSV"
        ) from exc
    return buffer.getvalue()


def write_table(study: Study, to: str | Path) -> int:
    """Write all evaluations as a file whose name says of which kind, and return its bytes.

    Raises:
        InputError: the name ends in no kind of table.
        ExportError: the file cannot be written, or as :func:`table_bytes`.
    """
    suffix = Path(to).suffix.removeprefix(".").lower()
    kind = next((kind for kind in TABLE_KINDS if kind == suffix), None)
    if kind is None:
        raise InputError(
            f"{str(to)!r} names no table; needed a name that ends in "
            f"{', '.join(f'.{kind}' for kind in TABLE_KINDS)}"
        )
    content = table_bytes(study, kind)
    with replacing(to) as temporary:
        write_flushed(temporary, content)
    return len(content)
