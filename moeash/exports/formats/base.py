"""What a format is given, and its contract."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from torch import nn

from moeash import __version__
from moeash.core.codebook import SharedWeights
from moeash.data.inputs import Batch
from moeash.exports.formats.names import FormatName
from moeash.files import replacing


@dataclass(frozen=True, eq=False)
class Runnable:
    """A network that runs with the decoded weights.

    Attributes:
        module: in eval mode, on the CPU, holding the decoded weights.
        names: of the tensors in the module, by their names in the file.
        batches: begins again with the inputs that both networks are compared on; at least one.
    """

    module: nn.Module
    names: Mapping[str, str]
    batches: Callable[[], Iterator[Batch]]


@dataclass(frozen=True, eq=False)
class Source:
    """What is written.

    Attributes:
        weights: the compressed network.
        metadata: says in the file where it comes from; see :func:`metadata_of`.
        network: the network itself, for formats that need it.
        coder: entropy coder of ``.moeash`` files.
        notes: of ``.moeash`` files, whose bytes a study has promised: they hold no metadata beside.
    """

    weights: SharedWeights
    metadata: Mapping[str, str] = field(default_factory=dict)
    network: Runnable | None = None
    coder: str = "ans"
    notes: Mapping[str, str] = field(default_factory=dict)


class Format(Protocol):
    """A kind of file that a compressed network is written to."""

    @property
    def name(self) -> FormatName:
        """What people call it."""
        ...

    def placing(self, source: Source, to: Path) -> AbstractContextManager[tuple[Path, ...]]:
        """Write beside the target and check what was written against the source.

        The block is given the names that the files get when it ends. When anything is raised
        before, files that were there stay as they were.

        Args:
            source: what is written.
            to: the target.

        Raises:
            InputError: the format cannot hold this network, or needs what is not there.
            ExportError: the file cannot be written, or does not hold what it should.
        """
        ...


class SingleFile(ABC):
    """A format whose file is written by one function and checked by another."""

    name: ClassVar[FormatName]

    @contextmanager
    def placing(self, source: Source, to: Path) -> Iterator[tuple[Path, ...]]:
        """As :meth:`Format.placing`."""
        with replacing(to) as temporary:
            self.write(source, temporary, to)
            self.check(source, temporary)
            yield (to,)

    @abstractmethod
    def write(self, source: Source, path: Path, to: Path) -> None:
        """Write the file.

        Args:
            source: what is written.
            path: where it is written, an empty file.
            to: the name it will have.
        """

    @abstractmethod
    def check(self, source: Source, path: Path) -> None:
        """Read the file back and compare every tensor bit for bit.

        Raises:
            ExportError: it cannot be read, or holds something else.
        """


def metadata_of(
    weights: SharedWeights, *, study: str | None = None, recipe: str | None = None, **notes: str
) -> dict[str, str]:
    """Return what a file says of its origin.

    Args:
        weights: the network; its fingerprint is what ``moeash verify`` shows of the file.
        study: whose solution it is.
        recipe: of the solution, as canonical JSON.
        notes: whatever else is known.
    """
    known = {
        "moeash_version": __version__,
        "fingerprint": weights.fingerprint(),
        "study": study,
        "recipe": recipe,
    }
    return notes | {name: value for name, value in known.items() if value is not None}
