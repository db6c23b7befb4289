"""Format ``moeash``: the house's own, entropy coded; read by :func:`moeash.load`."""

from pathlib import Path
from typing import ClassVar

from moeash.codec import container
from moeash.exports.formats.base import SingleFile, Source
from moeash.exports.formats.names import FormatName


class MoeashFile(SingleFile):
    """``.moeash`` files; the format is described by :mod:`moeash.codec.container`."""

    name: ClassVar[FormatName] = "moeash"

    def write(self, source: Source, path: Path, to: Path) -> None:
        """As :meth:`SingleFile.write`."""
        container.write_at(path, source.weights, coder=source.coder, notes=source.notes)

    def check(self, source: Source, path: Path) -> None:
        """As :meth:`SingleFile.check`."""
        container.verify_at(path, source.weights)
