"""Compress one network, or export a solution of a study, to a verified file."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from torch import nn

from moeash.api.common import inputs_for, method_table, overlaid
from moeash.api.showing import Shown, doing, listening
from moeash.codec.container import write
from moeash.codec.size import SizeReport, size
from moeash.core.solutions.candidate import Value
from moeash.core.solutions.recipe import Recipe, Refine
from moeash.core.solutions.variables import candidate_of
from moeash.data.unlabelled import Given
from moeash.errors import InputError
from moeash.evaluation.comparing import Comparison
from moeash.evaluation.loading import compressor_of
from moeash.exports.building import building
from moeash.exports.export import ExportReport, export_solution
from moeash.exports.formats.names import targets
from moeash.exports.reaching import GoalReport, compress_for
from moeash.files import as_path, check_target
from moeash.methods.registry import build_method
from moeash.names import contained
from moeash.networks.devices import device_of
from moeash.options.arguments import checked
from moeash.runtime.threads import default_threads
from moeash.study.events import Doing, Note
from moeash.study.plan import task_of
from moeash.study.spec.output import Pick
from moeash.study.spec.reading import spec_of_module
from moeash.study.study import Study
from moeash.tracing.outputs import OutputOf


@overload
def compress(
    module: nn.Module,
    to: str | Path,
    *,
    candidate: Mapping[str, Value],
    refined: bool = False,
    method: str | Mapping[str, Any] = "uniform",
    calibration: Given | None = None,
    output: OutputOf | None = None,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Shown = True,
) -> SizeReport: ...


@overload
def compress(
    module: nn.Module,
    to: str | Path,
    *,
    calibration: Given,
    max_kl: float | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    method: str | Mapping[str, Any] = "uniform",
    output: OutputOf | None = None,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Shown = True,
) -> GoalReport: ...


@contained()
@checked("module", "max_kl", "max_drop", "max_bytes", "output", "refined", "force", "progress")
def compress(
    module: nn.Module,
    to: str | Path,
    *,
    candidate: Mapping[str, Value] | None = None,
    refined: bool = False,
    max_kl: float | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    method: str | Mapping[str, Any] = "uniform",
    calibration: Given | None = None,
    output: OutputOf | None = None,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Shown = True,
) -> SizeReport | GoalReport:
    """Write one compressed network to a verified file: of one candidate, or for one goal.

    A goal is one of three limits. As :func:`compress_spec` does for a spec, the method prepares
    once, its number of bins is bisected, neighbouring rates are tried and what was found is
    refined; every try is compared with the float network on all the calibration inputs, which
    need no labels. Outputs are ``(n, ..., n_classes)``.

    Args:
        module: a trained module; it is not changed.
        to: target file.
        candidate: the point of the method's space, e.g. ``{"k": 64}``.
        refined: of a candidate: take the method's slower way, as the solutions of a search do.
        max_kl: largest Kullback-Leibler divergence from the float network, in nats; the file is
            made as small as it allows.
        max_drop: likewise, largest share of outputs whose class is another than the float
            network's.
        max_bytes: largest file; the divergence is made as small as it allows.
        method: its name, or a mapping as ``[method]`` in a spec.
        calibration: as in :func:`search`.
        output: likewise.
        seed: of the method's random draws.
        spec: ``network`` and ``codec`` as a spec has them.
        force: replace an existing file, once everything has been verified.
        progress: who hears of it.

    Returns:
        Of a candidate, the size of the file and where it goes; for a goal, what was written and how
        it measures.

    Raises:
        InputError: the target exists, not exactly one of the candidate and the limits is given,
            the candidate is no point of the method's space, or an option cannot be used.
        NothingMeetsError: nothing within the method's bounds meets the limit.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> network = torch.nn.Linear(64, 32)
        >>> folder = tempfile.mkdtemp()
        >>> report = moeash.compress(
        ...     network, f"{folder}/linear.moeash", candidate={"k": 4}, progress=False
        ... )
        >>> report.total < 64 * 32
        True
        >>> inputs = torch.randn(100, 64)
        >>> report = moeash.compress(
        ...     network, f"{folder}/goal.moeash", max_kl=0.01, calibration=inputs, progress=False
        ... )
        >>> report.search.divergence <= 0.01
        True
    """
    limits = {"max_kl": max_kl, "max_drop": max_drop, "max_bytes": max_bytes}
    given = [name for name, limit in limits.items() if limit is not None]
    if (candidate is not None) + len(given) != 1:
        named = ", ".join([*(["candidate"] if candidate is not None else []), *given]) or "none"
        raise InputError(
            f"got {named} of candidate, max_kl, max_drop and max_bytes; give exactly one of them"
        )
    if given and calibration is None:
        raise InputError(f"{given[0]} is measured on inputs; give calibration=")
    if given and refined:
        raise InputError("a goal refines what it finds by itself; leave out refined")
    check_target(to, force=force)
    described = spec_of_module(
        overlaid(
            {
                "name": "compress",
                "seed": seed,
                "evaluation": {"device": str(device_of(module))},
                "method": method_table(method),
            },
            {} if spec is None else spec,
        ),
        module=type(module).__qualname__,
        metric="none",
    )
    chosen = build_method(described.method)
    recipe = None
    if candidate is not None:
        recipe = Recipe(candidate_of(chosen.space(), candidate), (Refine(),) if refined else ())
        if refined and not chosen.refines:
            raise InputError(f"method {chosen.name} has no slower way; leave out refined")
    inputs = inputs_for(
        module,
        chosen,
        calibration,
        described.codec,
        output,
        trained_by=described.trained_by,
        measured=bool(given),
    )
    task = described.task(module=module, calibration=inputs, output=output)
    with listening(progress) as listen:
        if recipe is None:
            assert inputs is not None
            comparison = Comparison(
                inputs,
                batch_size=described.evaluation.batch_size,
                device=described.evaluation.device,
                output=output,
            )
            return compress_for(
                task,
                to,
                max_kl=max_kl,
                max_drop=max_drop,
                max_bytes=max_bytes,
                comparison=comparison,
                progress=doing(listen),
            )
        task = replace(task, n_threads=default_threads(), refines=refined)
        with compressor_of(task, doing(listen)) as compressor:
            of_training = compressor.check_training() if chosen.options.trains else ()
            for note in (*compressor.notes, *of_training):
                listen(Note(note))
            shared = compressor.build(recipe, progress=doing(listen))
        listen(Doing("writing and verifying the file"))
        write(to, shared, coder=task.codec.coder)
    return size(shared, coder=task.codec.coder)


@contained()
@checked("study", "max_drop", "max_bytes", "id", "format", "accept_baseline", "force", "progress")
def export(
    study: Study,
    to: str | Path,
    *,
    pick: Pick = "smallest",
    max_drop: float | None = None,
    max_bytes: int | None = None,
    id: int | None = None,
    format: str | Sequence[str] | None = None,
    inputs: Given | None = None,
    accept_baseline: bool = False,
    force: bool = False,
    progress: Shown = True,
) -> ExportReport:
    """Export a solution of a study as a verified file, or as one of each of several formats.

    Args:
        study: from :func:`run`, :func:`search` or :func:`open_study`.
        to: target file. Several formats have its name with their own suffixes.
        pick: which solution of the front, unless ``id`` names one.
        max_drop: only solutions at most this far below the float network, in units of the metric.
        max_bytes: only solutions of at most so many bytes.
        id: a solution's number, instead of ``pick`` and its limits.
        format: ``moeash``, ``safetensors``, ``torch``, ``onnx``, ``c``, or several of them;
            default: the one that ``to`` is named like, or else moeash.
        inputs: for onnx: what to run the network on, where the study has no images and no
            calibration inputs.
        accept_baseline: export although the network's code makes another function of its weights
            than when they were measured.
        force: replace existing files, once everything has been verified.
        progress: who hears of it.

    Returns:
        What was written and how the decoded network measures on the holdout split.

    Raises:
        NothingMeetsError: no solution is within the limits; names the nearest.
        RebuildMismatchError: the solution does not rebuild to the weights that were measured.
        InputError: a target exists, or a format is unknown, or needs inputs or a package that are
            not there.
        ExportError: a file cannot be written, or a format cannot hold the network.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> network = torch.nn.Linear(64, 32)
        >>> def smoothness(module):
        ...     return -float(module.weight.detach().diff().square().sum())
        >>> study = moeash.search(network, evaluate=smoothness, generations=1, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = moeash.export(study, f"{folder}/a.moeash", pick="knee", progress=False)
        >>> report.size_bytes == report.solution["size_bytes"]
        True
    """
    if id is not None and (max_drop is not None or max_bytes is not None):
        raise InputError("id names one solution, so limits have no use beside it; leave one out")
    formats = [format] if isinstance(format, str) else list(format or ())
    for _, path in targets(as_path(to), formats):  # refused before anything is built
        check_target(path, force=force)
    task = task_of(study)
    if id is not None:
        solution = study.solution(id)
    else:
        solution = study.pick(pick, max_drop=max_drop, max_bytes=max_bytes)
    with (
        listening(progress) as listen,
        building(study, doing(listen), measures=True, accept_baseline=accept_baseline) as build,
    ):
        report = export_solution(
            task, solution, build, to, doing(listen), formats=formats, inputs=inputs
        )
    study.note_holdout_opened(solution.id, report.holdout_fingerprint)
    return report
