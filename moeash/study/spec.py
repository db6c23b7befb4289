"""The study specification: one TOML file, checked before anything is loaded.

Unknown keys are refused with the nearest valid name. What identifies a study (network, data,
method, metric, search without its budget, merge, codec, seed) enters its fingerprint; what only
says how long to run or where (``search.stop``, ``backend``, ``output``) does not, so a study can be
continued with a larger budget or on other machines.
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from moeash.codec.pools import Coder
from moeash.compression.keeping import KeptChoice, NormsChoice
from moeash.compression.remeasuring import IMAGES as REMEASURED_IMAGES
from moeash.core.merge import MergeCost
from moeash.core.objectives import SizeName
from moeash.data.sources import SOURCES
from moeash.errors import SpecError
from moeash.evaluation.assess import Precision
from moeash.evaluation.metrics import METRICS
from moeash.evaluation.task import DataTask, NetworkTask, Task
from moeash.methods import registry
from moeash.methods.base import Method
from moeash.methods.options import OPTIONS, MethodOptions
from moeash.names import nearest
from moeash.networks.builtin import BUILTIN
from moeash.searches.loop import Stop
from moeash.study.identity import identity_of

T = TypeVar("T", bound=BaseModel)


class _Table(BaseModel):
    """A TOML table: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkTable(_Table):
    """``[network]``: which network, and which of its parameters are shared."""

    source: str = Field(
        description=f"{', '.join(BUILTIN)}, torchvision:NAME or package.module:factory"
    )
    checkpoint: str | None = Field(None, description="safetensors or torch file")
    weights: str | None = Field(None, description="torchvision weights enum name")
    options: dict[str, Any] = Field({}, description="keyword arguments of the factory")
    include: tuple[str, ...] | None = Field(None, description="patterns of parameters to share")
    exclude: tuple[str, ...] | None = Field(None, description="patterns of parameters to keep")
    share_all: bool = Field(False, description="share 1-D float parameters too, as the paper does")


class DataTable(_Table):
    """``[data]``: which images, and how they are split."""

    source: str = Field(description=f"{', '.join(SOURCES)} or package.module:factory")
    root: str | None = Field(None, description="folder the images are in")
    options: dict[str, Any] = Field({}, description="options of the source")
    splits: dict[str, dict[str, Any]] = Field(
        description="search, holdout, calibration, train: part with range, count or rest"
    )


class EvaluationTable(_Table):
    """``[evaluation]``: what is measured, and how."""

    metric: str = Field(
        "top1", description=f"{', '.join(METRICS)} or package.module:function; higher is better"
    )
    batch_size: int = Field(500, ge=1, description="images a forward pass")
    max_drop: float | None = Field(
        None, ge=0, description="solutions further below the float network are not wanted"
    )
    threads: int | None = Field(None, ge=1, description="torch threads; default: all cores")
    device: str = Field("cpu", description="torch device; cuda is the GPU a worker is assigned")
    precision: Precision = Field(
        "float32", description="arithmetic of forward passes: float32, or on GPUs tf32 or bf16"
    )


class StopTable(_Table):
    """``[search.stop]``: the first rule that holds ends the search."""

    generations: int | None = Field(None, ge=1, description="generations of candidates")
    evaluations: int | None = Field(None, ge=1, description="distinct candidates")
    wall_time_s: float | None = Field(None, gt=0, description="seconds of this process")
    no_gain: int | None = Field(None, ge=1, description="generations without hypervolume gain")

    @model_validator(mode="after")
    def _some_rule(self) -> Self:
        if not self.model_dump(exclude_none=True):
            raise ValueError("at least one of generations, evaluations, wall_time_s, no_gain")
        return self


class SearchTable(_Table):
    """``[search]``: how candidates are proposed."""

    algorithm: Literal["nsga2", "exhaustive", "random"] = Field(
        "nsga2", description="exhaustive tries everything, the oracle for one integer"
    )
    mode: Literal["generational", "steady"] = Field(
        "generational",
        description="steady: a free worker gets the next child at once; with several workers the "
        "search is then not reproducible bit by bit",
    )
    population: int = Field(20, ge=2, description="candidates a generation")
    initial: Literal["linear", "log", "random"] = Field(
        "linear", description="first population of NSGA-II; linear is the paper's Algorithm 1"
    )
    objectives: tuple[SizeName, ...] = Field(
        ("size_bytes",), min_length=1, description="sizes minimised beside the metric"
    )
    reference: dict[str, float] = Field(
        {}, description="hypervolume reference point; default: worst metric, float32 bytes"
    )
    stop: StopTable = StopTable(generations=15)

    @model_validator(mode="after")
    def _steady_evolves(self) -> Self:
        if self.mode == "steady" and self.algorithm != "nsga2":
            raise ValueError(f"mode = 'steady' needs algorithm = 'nsga2', not {self.algorithm!r}")
        return self

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, value: tuple[SizeName, ...]) -> tuple[SizeName, ...]:
        if len(set(value)) != len(value):
            raise ValueError("names an objective twice")
        return value


class RefineTable(_Table):
    """``[refine]``: solutions of the front made again with more effort, if the method has a way."""

    solutions: int = Field(20, ge=0, description="of the front, evenly spread. 0: none")


class MergeTable(_Table):
    """``[merge]``: the neighbour-bin merge pass over the front."""

    enabled: bool = Field(True, description="run the pass after the search")
    cost: MergeCost = Field("sse", description="order of pairs: SSE rise, or bits saved per SSE")
    floor: Literal["own", "baseline"] = Field(
        "own", description="a merge is kept while the metric stays at its solution's, or the float"
    )
    tolerance: float = Field(0.0, ge=0, description="how far below the floor is still accepted")
    max_drop: float | None = Field(
        None, ge=0, description="only solutions within this drop are merged; default: all"
    )
    max_trials: int | None = Field(None, ge=1, description="trial merges per solution")


class CodecTable(_Table):
    """``[codec]``: how the file is written."""

    coder: Coder = Field(
        "ans", description="ans, the paper's huffman, or adaptive: a tenth smaller, slower to read"
    )
    kept: KeptChoice = Field(
        "float16",
        description="precision of kept float parameters; auto measures on the search split how "
        "coarse each may be",
    )
    norms: NormsChoice = Field(
        "two_vectors",
        description="BatchNorms as the scale and shift they come down to, or as_they_are: four "
        "vectors, to train on",
    )


class NormsTable(_Table):
    """``[norms]``: what happens to BatchNorms beside being stored."""

    fold: bool = Field(
        False,
        description="fold BatchNorms into the layers before them, for runtimes without "
        "BatchNorm; costs bytes: a fifth more on ResNet-20 at equal outputs",
    )
    remeasure: bool = Field(
        False,
        description="measure every candidate's BatchNorm statistics again, on calibration images; "
        "it moves the float network as well, so both baselines are reported",
    )
    images: int = Field(REMEASURED_IMAGES, ge=2, description="calibration images for that, at most")

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Self:
        if self.fold and self.remeasure:
            raise ValueError("folded BatchNorms have no statistics to measure again; choose one")
        return self


class BackendTable(_Table):
    """``[backend]``: where candidates are evaluated."""

    kind: Literal["inprocess", "ray"] = Field(
        "inprocess", description="this one process, or workers on Ray"
    )
    address: str | None = Field(
        None, description="auto or HOST:PORT of a Ray head; default: a Ray of the study's own"
    )
    workers: int | None = Field(
        None, ge=1, description="a fixed number of workers; default: as many as there is room for"
    )
    min_workers: int | None = Field(None, ge=0, description="workers kept even when idle")
    max_workers: int | None = Field(None, ge=1, description="workers at most")
    cpus_per_worker: float | None = Field(
        None, gt=0, description="CPUs reserved for a worker; default: evaluation.threads, or 1"
    )
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs reserved; 0.5: two share one")
    timeout_s: float = Field(3600.0, gt=0, description="wall time of one try of a candidate")
    max_tries: int = Field(3, ge=1, description="tries after which a candidate has failed")
    start_timeout_s: float = Field(300.0, gt=0, description="time a worker has to start")
    release_idle: bool = Field(False, description="end idle workers between generations")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "inprocess":
            named = sorted(self.model_dump(exclude_defaults=True, exclude={"kind"}))
            if named:
                raise ValueError(f"{', '.join(named)} need kind = 'ray'")
        if self.workers is not None and self.max_workers is not None:
            raise ValueError("workers fixes the number; give either workers or max_workers")
        most = self.workers or self.max_workers
        if most is not None and self.min_workers is not None and self.min_workers > most:
            raise ValueError(f"min_workers = {self.min_workers} is above the most, {most}")
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(f"gpus_per_worker = {self.gpus_per_worker} above 1 must be whole")
        return self


class OutputTable(_Table):
    """``[output]``: what ``moeash run`` writes when the study is finished."""

    folder: str = Field(description="folder for the front (JSON, PNG) and the exported file")
    pick: Literal["smallest", "knee", "best"] = Field(
        "smallest", description="which solution of the front is exported"
    )
    max_drop: float | None = Field(None, ge=0, description="only solutions within this drop")
    max_bytes: int | None = Field(None, ge=1, description="only solutions of at most these bytes")


class StudySpec(_Table):
    """A whole study."""

    version: Literal[1] = Field(1, description="of this format")
    name: str = Field(
        min_length=1,
        max_length=200,
        pattern=r"^[\w.+-]+$",
        description="of the study in its storage: letters, digits, _ . + -",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of the search and the method")
    network: NetworkTable
    data: DataTable
    evaluation: EvaluationTable = EvaluationTable()
    method: dict[str, Any] = Field({"name": "uniform"}, description="name and its options")
    search: SearchTable = SearchTable()
    refine: RefineTable = RefineTable()
    merge: MergeTable = MergeTable()
    codec: CodecTable = CodecTable()
    norms: NormsTable = NormsTable()
    backend: BackendTable = BackendTable()
    output: OutputTable | None = None

    @field_validator("method")
    @classmethod
    def _known_method(cls, value: dict[str, Any]) -> dict[str, Any]:
        return method_table(value)

    @model_validator(mode="after")
    def _coder_for_method(self) -> Self:
        check_coder(self.method, self.codec.coder)
        return self

    def build_method(self) -> Method:
        """Return the method with its options."""
        return build_method(self.method)

    def stop(self) -> Stop:
        """Return the stopping rules."""
        return Stop(**self.search.stop.model_dump())

    def task(self) -> Task:
        """Return what a worker needs to evaluate candidates of this study."""
        network, data, evaluation = self.network, self.data, self.evaluation
        return Task(
            network=NetworkTask(
                source=network.source,
                checkpoint=network.checkpoint,
                weights=network.weights,
                options=network.options,
                include=network.include,
                exclude=network.exclude,
                share_all=network.share_all,
            ),
            data=DataTask(data.source, data.root, data.options, data.splits),
            evaluate=None,
            metric=evaluation.metric,
            method=self.build_method(),
            objectives=self.search.objectives,
            coder=self.codec.coder,
            kept=self.codec.kept,
            norms=self.codec.norms,
            notes={"network": network.source},
            batch_size=evaluation.batch_size,
            n_threads=evaluation.threads,
            device=evaluation.device,
            seed=self.seed,
            precision=evaluation.precision,
            fold_norms=self.norms.fold,
            remeasure_norms=self.norms.images if self.norms.remeasure else 0,
        )

    def identity(self, *, defaults: bool = True) -> dict[str, Any]:
        """Return what identifies the study: everything but budget, place, and paths.

        Paths are left out because the network's and the data's content are fingerprinted.

        Args:
            defaults: include values that are left at their default.
        """
        plain = self.model_dump(mode="json", exclude_defaults=not defaults)
        if not defaults:
            plain["method"] = _chosen_options(self.method)
            plain["codec"] = plain.get("codec", {}) | {"norms": self.codec.norms}
        return identity_of(plain)

    def fingerprint(self) -> str:
        """Return 32 hex digits over :meth:`identity`.

        Defaults are left out, so that a later moeash with more options continues this study.
        """
        canonical = json.dumps(self.identity(defaults=False), sort_keys=True)
        return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def method_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``[method]`` with every option spelt out, so that equal methods have equal tables.

    Raises:
        ValueError: as :func:`build_method`.
    """
    options = method_options(table)
    return {"name": options.name, **dataclasses.asdict(options)}


def check_coder(method: Mapping[str, Any], coder: Coder) -> None:
    """Refuse a coder that would undo what the method does.

    Raises:
        ValueError: weights on trellises, whose paths only the adaptive coder knows; tables would
            take some 0.7 bits a weight more.
    """
    needed = method_options(method).needs_coder
    if needed is not None and coder != needed:
        raise ValueError(f"method.trellis needs codec.coder = {needed!r}, not {coder!r}")


def _chosen_options(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's name and the options that are not at their default."""
    chosen = method_options(table)
    options = dataclasses.asdict(chosen)
    defaults = {f.name: f.default for f in dataclasses.fields(chosen)}
    return {"name": chosen.name} | {k: v for k, v in options.items() if v != defaults[k]}


def build_method(table: Mapping[str, Any]) -> Method:
    """Return a method from ``[method]``.

    Raises:
        ValueError: as :func:`method_options`.
    """
    return registry.build_method(method_options(table))


def method_options(table: Mapping[str, Any]) -> MethodOptions:
    """Return a method's options from ``[method]``.

    Raises:
        ValueError: unknown name or option, or a value out of range; pydantic adds the place.
    """
    options = dict(table)
    name = options.pop("name", "uniform")
    if name not in OPTIONS:
        raise ValueError(f"no method {name!r}; {nearest(str(name), OPTIONS)}")
    build = OPTIONS[name]
    fields = [f.name for f in dataclasses.fields(build)]
    for key in options:
        if key not in fields:
            raise ValueError(f"method {name!r} has no option {key!r}; {nearest(key, fields)}")
    adapter: TypeAdapter[Any] = TypeAdapter(build)
    try:
        chosen: MethodOptions = adapter.validate_python(options)
    except ValidationError as error:
        raise ValueError(
            "; ".join(_explain(problem, StudySpec) for problem in error.errors())
        ) from error
    return chosen


def parse_spec(data: Mapping[str, Any], *, where: str = "spec") -> StudySpec:
    """Check plain values and return the spec.

    Args:
        data: nested mappings as TOML gives them.
        where: named in errors.

    Raises:
        SpecError: one line a problem: where it is, what came, what was needed.
    """
    return parse_table(StudySpec, data, where=where)


def parse_table(table: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """Check the plain values of one table; as :func:`parse_spec`."""
    try:
        return table.model_validate(data)
    except ValidationError as error:
        lines = [_explain(problem, table) for problem in error.errors()]
        raise SpecError(f"{where}: " + "; ".join(lines)) from error


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read a TOML spec and apply ``key.path=value`` overrides.

    Raises:
        SpecError: unreadable, not TOML, or not a valid spec.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SpecError(f"cannot read {path}: {reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        apply_override(data, override)
    return parse_spec(data, where=str(path))


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set ``a.b.c=value`` in nested tables; the value is TOML, or else text."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise SpecError(f"--set {override!r} is not KEY.PATH=VALUE")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *tables, last = key.strip().split(".")
    here: Any = data
    for table in tables:
        here = here.setdefault(table, {})
        if not isinstance(here, dict):
            raise SpecError(f"--set {override!r}: {table!r} is a value, not a table")
    here[last] = value


def _explain(problem: Any, root: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "spec"
    if problem["type"] == "extra_forbidden":
        *tables, key = problem["loc"]
        return f"unknown key {place!r}; {nearest(str(key), _fields(root, tables))}"
    if problem["type"] == "missing":
        return f"{place!r} is missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[:1].lower() + message[1:]}"


def _fields(model: type[BaseModel], tables: Sequence[Any]) -> list[str]:
    for table in tables:
        annotation = model.model_fields[str(table)].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return list(model.model_fields)
