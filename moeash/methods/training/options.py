"""How networks are trained, whatever trains them. Nothing here loads torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from moeash.core.solutions.recipe import Augment
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, Options

TrainedNorms = Literal["frozen", "trained"]
"""What BatchNorms compute with while training: their running statistics, or those of the batch."""


@dataclass(frozen=True)
class TrainingOptions(Options):
    """``[training]``: of methods that train, and of the steps distill and tune.

    Attributes:
        labels: weight of the labels in the loss of distill and tune, from 0 to 1; the rest is the
            float network's outputs, which need none.
        batch_size: images a step.
        augment: none, flips, or flips_and_crops; flips are wrong for digits.
        norms: frozen keeps the running statistics of BatchNorms, trained goes on measuring them.
    """

    table: ClassVar[str] = "training"

    labels: Annotated[float, Bounds(0, 1)] = 0.0
    batch_size: Count = 128
    augment: Augment = "none"
    norms: TrainedNorms = "frozen"
