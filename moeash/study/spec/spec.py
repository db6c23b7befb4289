"""A study as one value: the options of every concern, assembled and checked against each other.

Making one loads nothing: neither the network nor torch. The same class describes a study whose
module and functions are given in Python (:func:`moeash.study.spec.reading.spec_of_module`); its
network's source is then ``python:`` and the module's class.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from moeash.backends.options import BackendOptions
from moeash.compression.options import CodecOptions
from moeash.core.solutions.recipe import Distill, Tune
from moeash.data.options import DataOptions
from moeash.errors import InputError
from moeash.evaluation.options import METRIC_NAMES, EvaluationOptions
from moeash.methods.fixing.options import StagedOptions
from moeash.methods.options import MethodOptions
from moeash.methods.training.options import TrainingOptions
from moeash.methods.uniform.options import UniformOptions
from moeash.names import is_reference, nearest
from moeash.networks.options import TORCHVISION, NetworkOptions
from moeash.options.kinds import Bounds, Pattern
from moeash.options.tables import Options, read, to_plain
from moeash.searches.options import SearchOptions
from moeash.study.course.options import (
    BudgetOptions,
    DistillOptions,
    MergeOptions,
    RefineOptions,
    TuneOptions,
)
from moeash.study.spec.identity import differences, fingerprint_of, identifying
from moeash.study.spec.output import OutputOptions
from moeash.study.spec.upgrade import VERSION, upgraded

if TYPE_CHECKING:
    from torch import nn

    from moeash.data.unlabelled import Unlabelled
    from moeash.evaluation.task import Evaluate, Task
    from moeash.tracing.outputs import OutputOf

PYTHON = "python:"
"""What stands in front of the class of a module that was given in Python."""

NAME = Pattern(r"(?!\.{1,2}$)[\w.+-]+", "letters, digits, _ . + -, and neither . nor ..", 200)
"""A URL's path cannot have . or .. for a part of it."""

LONGEST_NAME_BYTES = 200
"""Systems count a file's name in bytes, 255 at most, and something is put after this one."""


@dataclass(frozen=True, kw_only=True)
class StudySpec(Options):
    """A whole study.

    Attributes:
        version: of this format; a file without it is of version 1.
        name: of the study in its storage.
        seed: of the search and the method.
        network: which network, and which of its parameters are shared.
        data: which images, and how they are divided; a module given in Python has none.
        evaluation: what is measured, and how.
        method: how weights are shared.
        search: how candidates are proposed.
        budget: how long the study goes on.
        refine: what is made again with more effort.
        merge: which solutions have neighbouring entries merged.
        distill: which solutions have their weights trained towards their entries.
        tune: which solutions have their entries trained.
        training: how distilling, tuning and trained methods train.
        codec: how the file is written.
        backend: where candidates are evaluated.
        output: what is written when the study is finished, if anything.
        calibration: fingerprint of calibration inputs given in Python; never in a file.
    """

    version: Literal[1] = VERSION
    name: Annotated[str, NAME]
    seed: Annotated[int, Bounds(0, 2**32 - 1)] = 0
    network: NetworkOptions
    data: DataOptions | None = None
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    method: MethodOptions = field(default_factory=UniformOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    refine: RefineOptions = field(default_factory=RefineOptions)
    merge: MergeOptions = field(default_factory=MergeOptions)
    distill: DistillOptions = field(default_factory=DistillOptions)
    tune: TuneOptions = field(default_factory=TuneOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    codec: CodecOptions = field(default_factory=CodecOptions)
    backend: BackendOptions = field(default_factory=BackendOptions)
    output: OutputOptions | None = None
    calibration: str | None = field(default=None, metadata={"in_files": False})

    def check(self) -> None:
        """Refuse options of different tables that do not go together."""
        n_bytes = len(self.name.encode())
        if n_bytes > LONGEST_NAME_BYTES:
            raise InputError(
                f"name: {self.name[:20]}... takes {n_bytes} bytes, and files are named after it; "
                f"at most {LONGEST_NAME_BYTES} fit, choose a shorter one"
            )
        needed = self.method.needs_coder
        if needed is not None and self.codec.coder != needed:
            raise InputError(
                f"method {self.method.name!r} with these options needs codec.coder = {needed!r}, "
                f"not {self.codec.coder!r}"
            )
        self._check_training()
        if self.is_python:
            self._check_python()
            return
        if self.data is None:
            raise InputError("'data' is missing")
        if self.calibration is not None:
            raise InputError("calibration is for modules given in Python; use data.splits")
        metric = self.evaluation.metric
        if metric not in METRIC_NAMES and not is_reference(metric):
            raise InputError(
                f"evaluation.metric: no metric {metric!r}; "
                f"{nearest(metric, [*METRIC_NAMES, 'package.module:function'])}"
            )

    @property
    def trained_by(self) -> str | None:
        """What trains solutions first, the method or a phase behind the search; None: nothing."""
        if self.method.trains:
            return f"method {self.method.name}"
        if self.distill.solutions:
            return "distill"
        return "tune" if self.tune.solutions else None

    @property
    def distillings(self) -> tuple[Distill, ...]:
        """The steps of ``[distill]``, each taken on every solution that is chosen."""
        options = self.distill
        if not options.solutions:
            return ()
        return tuple(
            Distill(
                epochs=options.epochs,
                temperature=options.temperature,
                rate=rate,
                learning_rate=options.learning_rate,
                **vars(self.training),
            )
            for rate in options.rates
        )

    @property
    def tunings(self) -> tuple[Tune, ...]:
        """The step of ``[tune]``, likewise."""
        if not self.tune.solutions:
            return ()
        return (Tune(epochs=self.tune.epochs, **vars(self.training)),)

    @property
    def start(self) -> str | None:
        """The file of the solution that the method begins with; None: the float network."""
        return self.method.start if isinstance(self.method, StagedOptions) else None

    def _check_training(self) -> None:
        """Refuse a training without images before the search it would follow."""
        splits = set() if self.data is None else set(self.data.splits)
        if self.trained_by and not self.is_python and not splits & {"train", "calibration"}:
            raise InputError(
                f"{self.trained_by} needs images to train on; add [data.splits.train], or "
                "[data.splits.calibration]"
            )
        if self.trained_by and self.training.norms == "batch" and self.codec.norms == "folded":
            raise InputError(
                "training.norms = 'batch' trains with BatchNorms that codec.norms = 'folded' folds "
                "away; leave one of them out"
            )
        if self.trained_by and self.is_python and self.training.labels:
            raise InputError("training.labels needs labels, and inputs given from Python have none")

    def _check_python(self) -> None:
        if self.data is not None:
            raise InputError("a module given in Python is measured by a function; leave out data")
        if self.backend.kind != "inprocess":
            raise InputError("a module given in Python stays in its process; leave out backend")
        if self.codec.kept == "auto":
            raise InputError(
                "codec.kept = 'auto' measures what rounding does on images of the search split, "
                "and here a function measures; choose float16 or float32"
            )

    @property
    def is_python(self) -> bool:
        """Whether module and function are given in Python, so that no file can name them."""
        return self.network.source.startswith(PYTHON)

    @property
    def user_code(self) -> dict[str, str]:
        """The functions of a user that the spec names, by their place in it."""
        named = {"network.source": self.network.source, "evaluation.metric": self.evaluation.metric}
        if self.data is not None:
            named["data.source"] = self.data.source
        built_in = (PYTHON, TORCHVISION)
        return {
            place: name
            for place, name in named.items()
            if ":" in name and not (place == "network.source" and name.startswith(built_in))
        }

    def to_dict(self, *, defaults: bool = False) -> dict[str, Any]:
        """Return the spec as JSON has it: what is stored, and what :meth:`from_dict` reads.

        Args:
            defaults: include what is at its default.
        """
        return {"version": self.version, **to_plain(self, defaults=defaults)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "StudySpec":
        """Return the spec of plain values, those of older versions upgraded.

        Raises:
            InputError: every problem, each with its place.
        """
        return read(cls, upgraded(plain))

    def identity(self, *, defaults: bool = False) -> dict[str, Any]:
        """Return what identifies the study, see :mod:`moeash.study.spec.identity`.

        Args:
            defaults: include what is at its default.
        """
        return identifying(self.to_dict(defaults=defaults))

    def fingerprint(self) -> str:
        """Return 32 hex digits over :meth:`identity`; options of a later moeash leave them."""
        return fingerprint_of(self.identity())

    def differences(self, now: "StudySpec") -> list[str]:
        """Return in words what identifies the studies of two specs and differs.

        Args:
            now: the other spec, named second.
        """
        return differences(self.identity(defaults=True), now.identity(defaults=True))

    def task(
        self,
        *,
        module: "nn.Module | None" = None,
        evaluate: "Evaluate | None" = None,
        calibration: "Unlabelled | None" = None,
        output: "OutputOf | None" = None,
    ) -> "Task":
        """Return what a worker needs to evaluate candidates of this study; loads torch.

        Args:
            module: where :attr:`is_python`.
            evaluate: likewise, measures the module.
            calibration: likewise, inputs for the method.
            output: likewise, names the tensor that counts of what the module returns.

        Raises:
            InputError: the study was made in Python and its module is not given.
        """
        from moeash.evaluation.task import Task
        from moeash.methods.registry import build_method

        if self.is_python and module is None:
            raise InputError(
                f"study {self.name!r} was searched from Python and its module is not stored; "
                "call moeash.search again with the same name and storage (nothing is evaluated "
                "twice) and export the study it returns"
            )
        return Task(
            network=self.network,
            data=self.data,
            evaluation=self.evaluation,
            method=build_method(self.method),
            codec=self.codec,
            objectives=self.search.objectives,
            seed=self.seed,
            n_threads=self.evaluation.threads,
            notes={} if self.is_python else {"network": self.network.source},
            module=module,
            evaluate=evaluate,
            calibration=calibration,
            output=output,
            refines=bool(self.refine.solutions),
            training=self.training,
            trains=self.trained_by is not None,
            trainings=(*self.distillings, *self.tunings),
        )
