"""A task: everything a worker needs to evaluate candidates of one study, small and picklable.

A task says *where* a network and its images come from; an
:class:`~moeash.evaluation.evaluate.Evaluator` loads them once and then answers any number of jobs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from moeash.compression.options import CodecOptions
from moeash.core.kept import Keeping
from moeash.core.solutions.objectives import SizeName
from moeash.core.solutions.recipe import Tune
from moeash.data.options import DataOptions
from moeash.data.unlabelled import Unlabelled
from moeash.errors import InputError
from moeash.evaluation.options import EvaluationOptions
from moeash.methods.base import Method
from moeash.methods.training.options import TrainingOptions
from moeash.networks.options import NetworkOptions
from moeash.tracing.outputs import OutputOf

Evaluate = Callable[[nn.Module], float]
"""Measures a module: finite, higher is better, deterministic."""


@dataclass(frozen=True)
class Task:
    """What one study evaluates.

    Attributes:
        network: which network.
        data: which images; None when ``evaluate`` measures the network itself.
        evaluation: what is measured, and how.
        method: turns candidates into shared weights.
        codec: how the file is written.
        objectives: the sizes the study minimises.
        seed: of the method's random draws.
        n_threads: torch and kernel threads of the study; None leaves torch as it is.
        keeping: what ``codec`` came to when the study began; None: decide it.
        module: the network itself, in the place of its source.
        evaluate: measures the network, for what is not classification. Where there is neither this
            nor ``data``, the network can be compressed and not evaluated.
        calibration: inputs for the method, where they do not come with ``data``.
        output: names the tensor that counts of what the module returns for calibration inputs.
        notes: short texts stored in the file, counted in its bytes.
        refines: whether recipes may refine, which takes preparing.
        preparations: folder in which preparations that took long are kept; None: they are not.
        training: how candidates are trained, of methods that train.
        trains: whether recipes may train, by the method or by steps.
        trainings: the steps that solutions will be trained in, if any.
        holdout_fingerprint: of the holdout split solutions were reported on; None: none was yet.
    """

    network: NetworkOptions
    data: DataOptions | None
    evaluation: EvaluationOptions
    method: Method
    codec: CodecOptions
    objectives: tuple[SizeName, ...]
    seed: int
    n_threads: int | None = None
    keeping: Keeping | None = None
    module: nn.Module | None = None
    evaluate: Evaluate | None = None
    calibration: Unlabelled | None = None
    output: OutputOf | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    refines: bool = True
    preparations: str | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)
    trains: bool = False
    trainings: tuple[Tune, ...] = ()
    holdout_fingerprint: str | None = None

    def __post_init__(self) -> None:
        if self.data is not None and self.evaluate is not None:
            raise InputError("a task measures either images (data) or a function (evaluate)")
        if self.codec.kept == "auto" and self.data is None:
            raise InputError(
                "codec.kept = 'auto' measures what rounding does on images of the search split, "
                "and here a function measures; choose float16 or float32"
            )
