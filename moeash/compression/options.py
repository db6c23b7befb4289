"""How a compressed network is stored."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from moeash.codec.pools import Coder
from moeash.options.tables import Options

KeptChoice = Literal["float32", "float16", "auto"]
"""Precision of kept floats; ``auto`` measures how coarse each tensor may be."""

NormsChoice = Literal["two_vectors", "as_they_are", "folded", "remeasured"]
"""What happens to BatchNorms."""


@dataclass(frozen=True)
class CodecOptions(Options):
    """``[codec]``.

    Attributes:
        coder: ans, the paper's huffman, or adaptive: a tenth smaller, slower to read.
        kept: precision of kept float parameters; auto measures on the search split how coarse each
            may be.
        norms: BatchNorms as two_vectors, the scale and shift they come down to; as_they_are, to
            train on; folded into the layers before them, for runtimes without BatchNorm, a fifth
            more bytes on ResNet-20 at equal outputs; or remeasured for every candidate on
            calibration images, which moves the float network as well, so both baselines are
            reported.
    """

    table: ClassVar[str] = "codec"

    coder: Coder = "ans"
    kept: KeptChoice = "float16"
    norms: NormsChoice = "two_vectors"
