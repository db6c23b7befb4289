"""How networks are trained, whatever trains them. Nothing here loads torch."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, get_args

from moeash.core.solutions.recipe import Arithmetic, Augmentation, NormStatistics
from moeash.errors import InputError
from moeash.options.kinds import Bounds
from moeash.options.tables import Count, Options


@dataclass(frozen=True)
class TrainingOptions(Options):
    """``[training]``: of methods that train, and of the steps distill and tune.

    Attributes:
        labels: weight of the labels in the loss, from 0 to 1; the rest is the float network's
            outputs, which need none.
        batch_size: images a step.
        augment: how images are varied: flips mirror half of them, which is wrong for digits; crops
            move each by up to an eighth of its side; mixing mixes half of them with another, so
            that fewer images go further. Any of these, in any order.
        arithmetic: of forward passes: float32, or bf16 where torch deems it safe, which processors
            with units for it take less than half the time for. Solutions are measured as always.
        norms: what BatchNorms compute with while training: frozen, their running statistics, which
            stay; or batch, those of each batch, of which running ones are gathered and stored.
    """

    table: ClassVar[str] = "training"

    labels: Annotated[float, Bounds(0, 1)] = 0.0
    batch_size: Count = 128
    augment: tuple[Augmentation, ...] = ()
    arithmetic: Arithmetic = "float32"
    norms: NormStatistics = "frozen"

    def check(self) -> None:
        """Refuse batches that have no statistics, and mixed images that have two labels."""
        if len(set(self.augment)) != len(self.augment):
            raise InputError(f"training.augment is {list(self.augment)}, needed none of them twice")
        ordered = tuple(kind for kind in get_args(Augmentation) if kind in self.augment)
        object.__setattr__(self, "augment", ordered)  # any order is the same training
        if self.norms == "batch" and self.batch_size == 1:
            raise InputError(
                "training.norms = 'batch' needs batches of some images, and training.batch_size "
                "is 1; raise it, or leave norms frozen"
            )
        if "mixing" in self.augment and self.labels > 0:
            raise InputError(
                "training.augment = ['mixing'] shows images that belong to two classes, and "
                f"training.labels = {self.labels:g} wants one of each; leave labels at 0, where "
                "the float network says what it sees, or leave mixing out"
            )
