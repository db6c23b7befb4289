"""Format ``c``: arrays and the functions that decode them, in one header."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray

from moeash.errors import ExportError
from moeash.exports.formats.base import SingleFile, Source
from moeash.exports.formats.c.emitting import parts
from moeash.exports.formats.c.layout import lay_out
from moeash.exports.formats.c.packing import unpacked
from moeash.exports.formats.c.texts import values_of
from moeash.exports.formats.names import FormatName
from moeash.networks.writing.decoding import tensor_of

_ARRAY = re.compile(r"^static const \w+ (\w+)\[\d+\] = \{\n(.*?)\n\};$", re.MULTILINE | re.DOTALL)


class CHeader(SingleFile):
    """``.h`` files."""

    name: ClassVar[FormatName] = "c"

    def write(self, source: Source, path: Path, to: Path) -> None:
        """As :meth:`SingleFile.write`."""
        layout = lay_out(source.weights, to)
        with path.open("w", encoding="ascii", newline="\n") as file:
            file.writelines(part + "\n" for part in parts(layout, source.metadata))

    def check(self, source: Source, path: Path) -> None:
        """Read the arrays out of the text and decode them as the C functions do."""
        layout = lay_out(source.weights, Path("any.h"))
        # Names of arrays begin with the target's name; their order is that of the layout.
        bodies = iter(_ARRAY.findall(path.read_text(encoding="ascii")))

        def read(array: NDArray[Any]) -> NDArray[Any]:
            name, body = next(bodies, ("", ""))
            try:
                return values_of(body, array.dtype)
            except (ValueError, OverflowError) as exc:
                raise ExportError(f"the C file written has no sound array {name}: {exc}") from exc

        books = [read(book) for book in layout.books]
        for row in layout.rows:
            if row.is_tied:
                continue
            entry = row.packed
            if entry.data.size:
                entry = replace(entry, data=read(entry.data))
            expected = tensor_of(source.weights, row.tensor).reshape(-1)
            if expected.is_floating_point() and expected.dtype.itemsize == 2:
                expected = expected.float()
            try:
                decoded = unpacked(entry, books)
            except (ValueError, IndexError) as exc:
                raise ExportError(f"the C file written cannot be decoded: {exc}") from exc
            if decoded.tobytes() != expected.numpy().tobytes():
                raise ExportError(f"the C file written holds another {row.name!r}")
        if next(bodies, None) is not None:
            raise ExportError("the C file written holds more arrays than the network has tensors")
