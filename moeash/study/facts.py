"""What is known of a study from its creation on, and hardly changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moeash.core.solutions.objectives import SizeName
from moeash.core.solutions.variables import Variable, variable_of
from moeash.evaluation.options import unit_of


@dataclass(frozen=True)
class StudyFacts:
    """What is known of a study when it is created; afterwards its spec alone may change.

    Attributes:
        name: unique in its storage.
        spec: the specification of the last run as plain JSON values. Runs of one study may differ
            in what does not identify it: budget, backend, output, where files are.
        fingerprint: digest of what identifies the study: spec without its budget, network, data.
        network_fingerprint: of the float state and the roles of its parameters.
        data_fingerprint: of the search split.
        environment: versions, threads and device the numbers were measured with.
        keeping: how kept tensors are stored, as plain JSON values.
        metric_name: name of the metric.
        baseline: the float network's metric on the search split.
        original_bytes: float32 bytes of the state.
        n_shared: shared weights.
        n_kept: kept elements.
        n_batches: forward batches of a full evaluation.
        objectives: names of the minimised sizes.
        reference: hypervolume reference point in natural direction: metric, then sizes. Of a metric
            without a worst value it is None, and fixed by what the first generation measures, see
            :class:`moeash.study.course.standing.Standing`.
        sample: some outputs of the float network on the search split, which show whether its code
            is still the same; empty when a function measures.
        remeasured_baseline: the float network's metric with BatchNorms measured again; None where
            candidates' BatchNorms are not.
        space: the variables that were searched as plain JSON values, within the bounds that were
            given or found when the study began; None of studies that were begun before they were
            kept.
        histogram: of the float weights, in the units that codebook entries have: ``low``, ``high``
            and ``counts``; None of studies that were begun before it was kept.
        inputs_fingerprint: of the calibration and training images that candidates are made from;
            None where none are, or inputs given from Python are, which the spec names, and of
            studies that were begun before it was kept.
    """

    name: str
    spec: Mapping[str, Any]
    fingerprint: str
    network_fingerprint: str
    data_fingerprint: str
    environment: Mapping[str, Any]
    keeping: Mapping[str, Any]
    metric_name: str
    baseline: float
    original_bytes: int
    n_shared: int
    n_kept: int
    n_batches: int
    objectives: tuple[SizeName, ...]
    reference: tuple[float | None, ...]
    sample: tuple[float, ...] = ()
    remeasured_baseline: float | None = None
    space: Sequence[Mapping[str, Any]] | None = None
    histogram: Mapping[str, Any] | None = None
    inputs_fingerprint: str | None = None

    @property
    def variables(self) -> tuple[Variable, ...]:
        """What was searched; empty where it was not kept."""
        return tuple(variable_of(plain) for plain in self.space or ())

    @property
    def baseline_text(self) -> str:
        """The float network's metric for people; both where there are two."""
        again = self.remeasured_baseline
        text = f"{self.baseline:.4f}{self.unit}"
        return text if again is None else f"{text} ({again:.4f} with BatchNorms measured again)"

    @property
    def unit(self) -> str:
        """Unit of the metric and of drops, with a space before; empty for shares."""
        return unit_of(self.metric_name)

    @property
    def wanted_floor(self) -> float:
        """Lowest metric a wanted solution has; -inf without ``evaluation.max_drop``."""
        max_drop = self.spec.get("evaluation", {}).get("max_drop")
        return floor_of(self.baseline, max_drop)


def floor_of(baseline: float, max_drop: float | None) -> float:
    """Return the lowest metric within ``max_drop`` of the baseline; -inf for None.

    A drop of exactly ``max_drop`` is within, whatever the last bit of a subtraction says.

    Example:
        >>> 0.7 >= 0.8 - 0.1
        False
        >>> 0.7 >= floor_of(0.8, 0.1)
        True
    """
    return float("-inf") if max_drop is None else baseline - max_drop - 1e-12
