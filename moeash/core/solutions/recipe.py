"""A recipe: the one name of a solution, a candidate and the steps taken after it.

``{k: 37}`` is a recipe without steps; ``{k: 37}, refine, merge 1-1-2-1`` is what the same candidate
became afterwards. A recipe is small, frozen, hashable and picklable, and its canonical JSON is its
key: equal recipes build equal networks. A new step is a frozen dataclass in :data:`Step` with a
unique ``name``.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal

from moeash.core.solutions.candidate import Candidate, Value
from moeash.errors import InputError
from moeash.names import nearest


def entries_text(n: int) -> str:
    """Return how many entries a codebook has: ``1 entry``, ``7 entries``."""
    return f"{n:,} entr{'y' if n == 1 else 'ies'}"


@dataclass(frozen=True)
class Refine:
    """The method's slower way from the same candidate to better weights."""

    name: ClassVar[str] = "refine"

    def __str__(self) -> str:
        return "refined"


@dataclass(frozen=True)
class Merge:
    """Each run of neighbouring codebook entries replaced by one entry.

    Attributes:
        runs: lengths of the runs, at least 1 each; they sum to the entries before the merge.
    """

    runs: tuple[int, ...]

    name: ClassVar[str] = "merge"

    def __str__(self) -> str:
        return f"merged to {entries_text(len(self.runs))}"


Augmentation = Literal["flips", "crops", "mixing"]
"""A way to vary training images: half of them mirrored; each moved by up to an eighth of its side;
half of them mixed with another. Whatever is chosen happens in this order."""

Arithmetic = Literal["float32", "bf16"]
"""What forward passes of a training compute in; bf16 where torch deems it safe."""

NormStatistics = Literal["frozen", "batch"]
"""What BatchNorms of a training compute with: running statistics, or those of each batch."""


@dataclass(frozen=True)
class Tune:
    """Entries of the codebook and kept parameters trained; every weight keeps its entry.

    Attributes:
        epochs: passes over the training images.
        labels: weight of the labels in the loss, 0 to 1; the rest is the float network's.
        temperature: divides scores before the softmax of the float network's part.
        batch_size: images of a step.
        augment: how images are varied: any of ``flips``, ``crops`` and ``mixing``.
        arithmetic: of forward passes: ``float32`` or ``bf16``.
        norms: statistics BatchNorms compute with: ``frozen`` ones, or those of each ``batch``.
    """

    epochs: int
    labels: float = 0.0
    temperature: float = 1.0
    batch_size: int = 128
    augment: tuple[Augmentation, ...] = ()
    arithmetic: Arithmetic = "float32"
    norms: NormStatistics = "frozen"

    name: ClassVar[str] = "tune"

    def __str__(self) -> str:
        return f"tuned for {self.epochs} epoch{'s'[: self.epochs != 1]}"


@dataclass(frozen=True)
class Distill(Tune):
    """Weights trained on the entries there are, towards fewer bits at equal outputs.

    Attributes:
        rate: what a bit a weight is worth, in nats of the loss.
        learning_rate: how far a weight moves in a step at first, in entries.
    """

    rate: float = 0.0
    learning_rate: float = 0.02

    name: ClassVar[str] = "distill"

    def __str__(self) -> str:
        return f"distilled at rate {self.rate:g} for {self.epochs} epoch{'s'[: self.epochs != 1]}"


Step = Refine | Merge | Tune | Distill

STEPS: dict[str, type[Step]] = {step.name: step for step in (Refine, Merge, Tune, Distill)}


@dataclass(frozen=True)
class Recipe:
    """A candidate and the steps taken after it.

    Attributes:
        candidate: the point of the search space.
        steps: in the order they are taken.

    Example:
        >>> recipe = Recipe.of({"k": 4}).then(Merge((1, 2, 1)))
        >>> recipe.key
        '{"candidate":{"k":4},"steps":[{"runs":[1,2,1],"step":"merge"}]}'
        >>> Recipe.from_dict(recipe.as_dict()) == recipe
        True
        >>> str(recipe)
        'k=4, merged to 3 entries'
    """

    candidate: Candidate
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if any(isinstance(step, Refine) for step in self.steps[1:]):
            raise InputError(f"refine begins with a candidate, so it is the first step; got {self}")

    @classmethod
    def of(cls, values: Mapping[str, Value], *steps: Step) -> "Recipe":
        """Return the recipe of a candidate's values and steps."""
        return cls(Candidate.of(values), steps)

    @property
    def trained(self) -> bool:
        """Whether a step trains, so that building takes minutes and not seconds."""
        return any(isinstance(step, Tune) for step in self.steps)

    def has_artifact(self, *, keeps_artifacts: bool) -> bool:
        """Return whether its file is stored with the study.

        A merge has none: it is made in no time from the file of what was merged.

        Args:
            keeps_artifacts: whether its method trains.
        """
        merged = bool(self.steps) and isinstance(self.steps[-1], Merge)
        return (keeps_artifacts or self.trained) and not merged

    def then(self, step: Step) -> "Recipe":
        """Return this recipe with one more step."""
        return Recipe(self.candidate, (*self.steps, step))

    @cached_property
    def key(self) -> str:
        """Canonical JSON: equal recipes, equal keys. Floats keep their shortest exact form."""
        return json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "candidate": self.candidate.as_dict(),
            "steps": [{"step": step.name, **_plain(step)} for step in self.steps],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Recipe":
        """Return the recipe of plain values.

        Raises:
            InputError: a step is unknown, or its values are not those of its kind.
        """
        return cls(Candidate.of(plain["candidate"]), tuple(map(_step, plain["steps"])))

    def __str__(self) -> str:
        return ", ".join(map(str, (self.candidate, *self.steps)))


@dataclass(frozen=True)
class Start:
    """A stored solution that a recipe begins with.

    Attributes:
        n_steps: steps of the recipe that it has taken.
        file: its ``.moeash`` bytes.
    """

    n_steps: int
    file: bytes = field(repr=False)


def _plain(step: Step) -> dict[str, Any]:
    """Return the values that differ from defaults: a later option changes no stored recipe."""
    defaults = {field.name: field.default for field in fields(step)}
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(step).items()
        if value != defaults[name]
    }


def _step(plain: Mapping[str, Any]) -> Step:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    name = values.pop("step", None)
    if name not in STEPS:
        raise InputError(f"no step {name!r} of a recipe; {nearest(str(name), STEPS)}")
    try:
        return STEPS[name](**values)
    except TypeError as error:
        raise InputError(f"step {name!r} of a recipe does not take {sorted(values)}") from error
