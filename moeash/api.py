"""The Python interface: everything ``import moeash`` offers."""

import json
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from moeash.codec.container import write
from moeash.codec.pools import Coder
from moeash.codec.size import SizeReport, size
from moeash.compression import folding, remeasuring
from moeash.compression.keeping import NormsChoice
from moeash.core.candidate import Candidate, Value
from moeash.core.kept import Keeping, KeptPrecision
from moeash.core.objectives import SizeName
from moeash.data.unlabelled import Given, Unlabelled
from moeash.errors import InputError, SpecError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.task import NetworkTask, Task, available_cores
from moeash.exports.export import ExportReport, export_solution
from moeash.methods.base import Method, Preparation
from moeash.networks.inplace import WeightWriter
from moeash.networks.norms import find_norms
from moeash.searches.loop import Stop
from moeash.study.opening import DEFAULT_STORAGE, open_storage
from moeash.study.plan import Plan, task_of
from moeash.study.progress import Progress, Silent
from moeash.study.run import run as run_plan
from moeash.study.solution import Pick
from moeash.study.spec import (
    CodecTable,
    EvaluationTable,
    MergeTable,
    NormsTable,
    RefineTable,
    SearchTable,
    StudySpec,
    build_method,
    check_coder,
    load_spec,
    method_table,
    parse_spec,
    parse_table,
)
from moeash.study.storage.base import Storage
from moeash.study.study import Study


def run(
    spec: str | Path | Mapping[str, Any] | StudySpec,
    *,
    storage: str | Storage | None = None,
    progress: Progress | None = None,
    retry_failed: bool = False,
) -> Study:
    """Run a study to its end, or continue it where it was interrupted.

    Args:
        spec: path of a TOML file, its content as nested mappings, or a checked spec.
        storage: database URL or SQLite path; default ``MOEASH_STORAGE`` or ``./moeash.db``.
        progress: receives the events.
        retry_failed: evaluate again what has failed through no fault of its own: workers lost,
            too slow, out of memory. The search then learns of it, and may propose other candidates
            from there on; nothing that was measured is lost.

    Returns:
        The finished study.

    Raises:
        SpecError: the spec does not say what to do.
        StudyExistsError: the name is taken by another spec, network or evaluation set.
        StudyLockedError: another process works on it.
    """
    if isinstance(spec, str | Path):
        spec = load_spec(spec)
    elif not isinstance(spec, StudySpec):
        spec = parse_spec(spec)
    plan = Plan.from_spec(spec)
    return run_plan(
        plan,
        open_storage(storage),
        plan.make_backend,
        progress or Silent(),
        retry_failed=retry_failed,
    )


def search(
    module: nn.Module,
    *,
    evaluate: Callable[[nn.Module], float],
    name: str | None = None,
    storage: str | Storage | None = None,
    method: Mapping[str, Any] | None = None,
    calibration: Given | None = None,
    objectives: Sequence[SizeName] = ("size_bytes",),
    population: int = 20,
    generations: int = 15,
    max_drop: float | None = None,
    refine: int = 20,
    merge: Mapping[str, Any] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    share_all: bool = False,
    coder: Coder = "ans",
    kept: KeptPrecision = "float16",
    norms: NormsChoice = "two_vectors",
    fold_norms: bool = False,
    remeasure_norms: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Study:
    """Search how to share the weights of any module, measured by any function.

    Args:
        module: a trained module; it holds candidates' weights while ``evaluate`` runs and its own
            weights again when the search returns or raises.
        evaluate: ``evaluate(module) -> float``, finite, higher is better, deterministic.
        name: of the study; give one together with ``storage`` to make it resumable. The function
            is not part of a study's identity: use another name when it changes.
        storage: database URL or SQLite path; default: a temporary one that lives as long as the
            returned study.
        method: as ``[method]`` in a spec, default ``{"name": "uniform"}``.
        calibration: unlabelled inputs for methods that look at some: a tensor ``(n, ...)``, a
            dataset, or batches such as a ``DataLoader`` gives; labels are ignored. The first ones
            are taken, as many as the method's ``images``.
        objectives: sizes to minimise.
        population: candidates a generation.
        generations: at most so many.
        max_drop: solutions further below the float module are not wanted.
        refine: solutions of the front made again with more effort, if the method has a way.
        merge: as ``[merge]`` in a spec.
        include: patterns of parameters to share.
        exclude: patterns of parameters to keep.
        share_all: share 1-D float parameters too.
        coder: entropy coder of the file.
        kept: precision of kept float parameters.
        norms: ``"two_vectors"`` stores a BatchNorm as the scale and shift it comes down to, which
            is the same function in eval mode unless somebody else reads its statistics;
            ``"as_they_are"`` keeps them, for that and for training.
        fold_norms: fold BatchNorms into the layers before them first, for runtimes without
            BatchNorm; costs bytes, a fifth more on ResNet-20 at equal outputs. Takes
            ``calibration``, whatever the method.
        remeasure_norms: measure BatchNorm statistics again after sharing, on ``calibration``; it
            moves the float network too, whose metric is then known both ways.
        seed: of the search.
        progress: receives the events.

    Returns:
        The finished study. Export with ``moeash.export(study, path)``.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"search needs a torch.nn.Module, got {type(module).__name__}")
    table = _method_table(method or {"name": "uniform"}, coder)
    built = build_method(table)
    inputs = _calibration(built, calibration, fold_norms, remeasure_norms)
    search_table = parse_table(
        SearchTable,
        {
            "population": population,
            "objectives": tuple(objectives),
            "stop": {"generations": generations},
        },
        where="search",
    )
    refine_table = parse_table(RefineTable, {"solutions": refine}, where="refine")
    merge_table = parse_table(MergeTable, merge or {}, where="merge")
    codec_table = parse_table(
        CodecTable, {"coder": coder, "kept": kept, "norms": norms}, where="codec"
    )
    parse_table(EvaluationTable, {"max_drop": max_drop}, where="evaluation")
    identity = {
        "module": type(module).__qualname__,
        "method": table,
        "search": search_table.model_dump(mode="json", exclude={"stop"}),
        "merge": merge_table.model_dump(mode="json"),
        "evaluation": {"max_drop": max_drop},
        "codec": codec_table.model_dump(mode="json"),
        "network": {
            "include": None if include is None else list(include),
            "exclude": None if exclude is None else list(exclude),
            "share_all": share_all,
        },
        "seed": seed,
    }
    if inputs is not None:
        identity["calibration"] = inputs.fingerprint()
    chosen = {"fold": fold_norms, "remeasure": remeasure_norms}
    if any(chosen.values()):
        identity["norms"] = {name: True for name, value in chosen.items() if value}
    task = Task(
        network=NetworkTask(
            source=module,
            include=None if include is None else tuple(include),
            exclude=None if exclude is None else tuple(exclude),
            share_all=share_all,
        ),
        data=None,
        evaluate=evaluate,
        metric=getattr(evaluate, "__name__", "evaluate"),
        method=built,
        objectives=tuple(objectives),
        coder=coder,
        kept=kept,
        norms=norms,
        notes={},
        batch_size=1,
        n_threads=torch.get_num_threads(),
        device=_device_of(module),
        seed=seed,
        calibration=inputs,
        fold_norms=fold_norms,
        remeasure_norms=remeasuring.IMAGES if remeasure_norms else 0,
    )
    plan = Plan(
        name=name or type(module).__name__,
        spec=identity,
        fingerprint=blake2b(
            json.dumps(identity, sort_keys=True).encode(), digest_size=16
        ).hexdigest(),
        task=task,
        search=search_table,
        refine=refine_table,
        merge=merge_table,
        stop=Stop(generations=generations),
        max_drop=max_drop,
        seed=seed,
    )
    if storage is not None:
        study = run_plan(plan, open_storage(storage), plan.make_backend, progress or Silent())
        study.task = task
        return study
    folder = tempfile.mkdtemp(prefix="moeash-")
    try:
        store = open_storage(str(Path(folder) / DEFAULT_STORAGE))
        study = run_plan(plan, store, plan.make_backend, progress or Silent())
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    study.task = task
    weakref.finalize(study, shutil.rmtree, folder, ignore_errors=True)
    return study


def compress(
    module: nn.Module,
    to: str | Path,
    *,
    candidate: Mapping[str, Value],
    refined: bool = False,
    method: Mapping[str, Any] | None = None,
    calibration: Given | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    share_all: bool = False,
    coder: Coder = "ans",
    kept: KeptPrecision = "float16",
    norms: NormsChoice = "two_vectors",
    fold_norms: bool = False,
    remeasure_norms: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> SizeReport:
    """Write one compressed network to a verified file, without search or evaluation.

    Args:
        module: a trained module; it is not changed.
        to: target file.
        candidate: the point of the method's space, e.g. ``{"k": 64}``.
        refined: take the method's slower way, as the solutions of a search do.
        method: as ``[method]`` in a spec, default ``{"name": "uniform"}``.
        calibration: as in :func:`search`.
        include: patterns of parameters to share.
        exclude: patterns of parameters to keep.
        share_all: share 1-D float parameters too.
        coder: entropy coder of the file.
        kept: precision of kept float parameters.
        norms: ``"two_vectors"`` stores a BatchNorm as the scale and shift it comes down to, which
            is the same function in eval mode unless somebody else reads its statistics;
            ``"as_they_are"`` keeps them, for that and for training.
        fold_norms: fold BatchNorms into the layers before them first, for runtimes without
            BatchNorm; costs bytes, a fifth more on ResNet-20 at equal outputs. Takes
            ``calibration``, whatever the method.
        remeasure_norms: measure BatchNorm statistics again after sharing, on ``calibration``.
        seed: of the method's random draws.
        progress: its ``note`` receives what the method's preparation wants people to know.

    Returns:
        The size of the file and where it goes.
    """
    built = build_method(_method_table(method or {"name": "uniform"}, coder))
    names = {variable.name for variable in built.space()}
    if names != set(candidate):
        raise InputError(f"candidate has {sorted(candidate)}, the method needs {sorted(names)}")
    point = Candidate.of(candidate)
    if refined and not built.refines:
        raise InputError(f"method {built.name} has no slower way; leave out refined")
    inputs = _calibration(built, calibration, fold_norms, remeasure_norms)
    task = NetworkTask(
        source=module,
        include=None if include is None else tuple(include),
        exclude=None if exclude is None else tuple(exclude),
        share_all=share_all,
    )
    if kept not in get_args(KeptPrecision):
        raise InputError(
            f"kept is {kept!r}; without a search split to measure on, choose from "
            f"{', '.join(get_args(KeptPrecision))}"
        )
    network = task.load()
    splits = {} if inputs is None else {"calibration": inputs}
    notes: list[str] = []
    given = WeightWriter(module, network.state)
    try:
        if fold_norms:
            images = folding.some_images(splits).to(_device_of(module))
            folded = folding.fold_norms(network, images)
            network = folded.network
            notes.extend(folded.notes)
        found = find_norms(module, network.state) if norms == "two_vectors" else ()
        prepared = built.prepare(Preparation(network, splits, seed, available_cores()))
        notes.extend(built.notes(prepared))
        shared = built.compress(prepared, point, network=network, refined=refined)
        if remeasure_norms:
            images = remeasuring.calibration_images(splits, remeasuring.IMAGES, seed)
            again = remeasuring.Remeasuring(network, images, _device_of(module))
            shared = again.apply(given, shared)
            notes.extend(again.notes)
        shared = Keeping(kept, found).apply(shared)
    finally:
        if fold_norms or remeasure_norms:
            given.restore()
    for note in notes:
        (progress or Silent()).note(note)
    del prepared  # two copies of the weights that encoding does without
    write(to, shared, coder=coder)
    return size(shared, coder=coder)


def export(
    study: Study,
    to: str | Path,
    *,
    pick: Pick = "smallest",
    max_drop: float | None = None,
    max_bytes: int | None = None,
    id: int | None = None,
    evaluator: Evaluator | None = None,
) -> ExportReport:
    """Export a solution of a study as a verified ``.moeash`` file.

    Args:
        study: from :func:`run`, :func:`search` or :func:`open_study`.
        to: target file.
        pick: which solution of the front, unless ``id`` names one.
        max_drop: only solutions at most this far below the float network.
        max_bytes: only solutions of at most so many bytes.
        id: a solution's number, instead of ``pick`` and its limits.
        evaluator: a loaded evaluator of the study, to save loading it again.

    Returns:
        What was written and how the decoded network measures on the holdout split.
    """
    if id is not None and (max_drop is not None or max_bytes is not None):
        raise InputError("id names one solution, so limits have no use beside it; leave one out")
    if id is not None:
        solution = study.solution(id)
    else:
        solution = study.pick(pick, max_drop=max_drop, max_bytes=max_bytes)
    if evaluator is not None:
        return export_solution(evaluator, solution, to)
    evaluator = Evaluator(task_of(study))
    try:
        return export_solution(evaluator, solution, to)
    finally:
        evaluator.close()


def _method_table(table: Mapping[str, Any], coder: Coder) -> dict[str, Any]:
    try:
        complete = method_table(table)
        check_coder(complete, coder)
        return complete
    except ValueError as error:
        raise SpecError(f"method: {error}") from error


def _calibration(
    method: Method, given: Given | None, fold: bool, remeasure: bool
) -> Unlabelled | None:
    """Return the inputs there is a use for; say so where a method does without, or has no use."""
    parse_table(NormsTable, {"fold": fold, "remeasure": remeasure}, where="norms")
    if given is not None:
        at_most = max(
            method.calibration_images,
            folding.IMAGES if fold else 0,
            remeasuring.IMAGES if remeasure else 0,
        )
        if not at_most:
            raise InputError(f"method {method.name} looks at no inputs; leave calibration out")
        return Unlabelled(given, at_most=at_most)
    if method.calibration_images:
        warnings.warn(
            f"method {method.name} has no calibration inputs and does not know what the network "
            "computes with; pass calibration=, unlabelled inputs suffice",
            stacklevel=3,
        )
    return None


def _device_of(module: nn.Module) -> str:
    parameter = next(module.parameters(), None)
    return "cpu" if parameter is None else str(parameter.device)
