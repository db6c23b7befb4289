"""How networks are trained, whatever trains them. Nothing here loads torch.

BatchNorms compute with their running statistics while training: a stored solution has two vectors
of each and no statistics to go on measuring.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from moeash.core.solutions.recipe import Arithmetic, Augment
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, Options


@dataclass(frozen=True)
class TrainingOptions(Options):
    """``[training]``: of methods that train, and of the steps distill and tune.

    Attributes:
        labels: weight of the labels in the loss, from 0 to 1; the rest is the float network's
            outputs, which need none.
        batch_size: images a step.
        augment: none, flips, or flips_and_crops; flips are wrong for digits.
        arithmetic: of forward passes: float32, or bf16 where torch deems it safe, which processors
            with units for it take less than half the time for. Solutions are measured as always.
    """

    table: ClassVar[str] = "training"

    labels: Annotated[float, Bounds(0, 1)] = 0.0
    batch_size: Count = 128
    augment: Augment = "none"
    arithmetic: Arithmetic = "float32"
