"""What is left of a study when it is finished."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.options.tables import Count, NotNegative, Options

Pick = Literal["smallest", "knee", "best"]
"""A solution of a front: of fewest bytes, at the knee, or of the highest metric."""


@dataclass(frozen=True)
class OutputOptions(Options):
    """``[output]``: what ``moeash run`` writes.

    Attributes:
        folder: for the front (JSON, PNG) and the exported file.
        pick: which solution of the front is exported.
        max_drop: only solutions within this drop of the float network.
        max_bytes: only solutions of at most these bytes.
    """

    table: ClassVar[str] = "output"

    folder: str
    pick: Pick = "smallest"
    max_drop: NotNegative | None = None
    max_bytes: Count | None = None
