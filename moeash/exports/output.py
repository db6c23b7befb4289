"""What ``moeash run`` leaves behind: the front as JSON and pictures, and the exported file.

The front and its pictures are written first, whatever becomes of the pick: neither a limit that no
solution meets nor an export that fails may cost what the study has found.
"""

import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from moeash.codec.size import size
from moeash.core.codebook import SharedWeights
from moeash.core.plain import json_text
from moeash.core.progress import Progress, silent
from moeash.errors import ExportError, NothingMeetsError
from moeash.evaluation.loading import load_network
from moeash.evaluation.task import Task
from moeash.exports import plots
from moeash.exports.export import ExportReport, export_solution
from moeash.files import check_target, replacing
from moeash.study.artifacts import Build
from moeash.study.solution import Solution
from moeash.study.spec.output import OutputOptions
from moeash.study.study import Study

FRONT = "front.json"
FRONT_PICTURE, HYPERVOLUME_PICTURE = "front.png", "hypervolume.png"

Picture = Literal["codebook", "bytes"]
"""A picture of one solution."""
PICTURES: dict[Picture, str] = {"codebook": "codebook.png", "bytes": "bytes.png"}
"""Files of the pictures of the exported one."""


@dataclass(frozen=True)
class Output:
    """What was written.

    Attributes:
        report: of the exported file; None when no solution is within the limits.
        paths: of the front and its pictures.
        refusal: why nothing was exported; None when something was.
    """

    report: ExportReport | None
    paths: tuple[str, ...]
    refusal: NothingMeetsError | None = None


def write_output(
    study: Study, options: OutputOptions, task: Task, build: Build, progress: Progress = silent
) -> Output:
    """Export the picked solution and write the study's front beside it.

    Args:
        study: a finished study.
        options: folder and pick.
        task: of the study.
        build: builds the study's recipes.
        progress: hears what is being done.

    Raises:
        ExportError: the folder or a file cannot be written, or the export fails.
    """
    folder = Path(options.folder)
    make_folder(folder, study.name)
    chosen: Solution | None = None
    refusal: NothingMeetsError | None = None
    try:
        chosen = study.pick(options.pick, max_drop=options.max_drop, max_bytes=options.max_bytes)
    except NothingMeetsError as error:
        refusal = error
    progress("drawing", 0, None)
    names = _draw(_study_figures(study, None if chosen is None else chosen.id), folder)
    front = summarise(study)
    _write_front(front, folder)
    report: ExportReport | None = None
    if chosen is not None:
        shared = build(chosen.record.recipe)
        names += _draw({f: solution_figure(task, shared, k) for k, f in PICTURES.items()}, folder)
        target = folder / _exported(study.name)
        report = export_solution(task, chosen, build, target, progress)
        study.note_holdout_opened(chosen.id, report.holdout_fingerprint)
        _write_front(front | {"exported": report.as_dict()}, folder)
    paths = tuple(str(folder / name) for name in (*names, FRONT))
    return Output(report, paths, refusal)


def _draw(figures: Mapping[str, Figure], folder: Path) -> list[str]:
    """Write pictures and return their names."""
    for name, figure in figures.items():
        plots.save(figure, folder / name)
    return [*figures]


def _write_front(front: Mapping[str, Any], folder: Path) -> None:
    with replacing(folder / FRONT) as temporary:
        temporary.write_text(json_text(front, indent=2) + "\n")


def _study_figures(study: Study, chosen: int | None) -> dict[str, Figure]:
    """Return the pictures of a study; a study that measured nothing has none of its front."""
    figures: dict[str, Figure] = {}
    if study.solutions():
        figures[FRONT_PICTURE] = plots.plot_front([study], chosen=chosen)
    if study.generations():
        figures[HYPERVOLUME_PICTURE] = plots.plot_hypervolume([study])
    return figures


def make_folder(folder: Path, name: str) -> None:
    """Make an output folder and make sure that a study's files can be written there.

    Args:
        folder: to be made.
        name: of the study.

    Raises:
        ExportError: they cannot; where one is a folder or a device, say.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ExportError(
            f"cannot write to the output folder {folder}: {error.strerror}; "
            "choose another with --set output.folder=..."
        ) from error
    pictures = (FRONT_PICTURE, HYPERVOLUME_PICTURE, *PICTURES.values())
    for file in (FRONT, *pictures, _exported(name)):
        check_target(folder / file, force=True)


def _exported(name: str) -> str:
    return f"{name}.moeash"


def summarise(study: Study) -> dict[str, Any]:
    """Return a finished study as plain values for JSON, before anything of it is exported."""
    evaluations = study.evaluations()
    facts = study.facts
    return {
        "study": facts.name,
        "spec": dict(facts.spec),
        "environment": dict(facts.environment) | {"processor": _processor()},
        "metric_name": facts.metric_name,
        "baseline": facts.baseline,
        "remeasured_baseline": facts.remeasured_baseline,
        "original_bytes": facts.original_bytes,
        "n_shared": facts.n_shared,
        "n_kept": facts.n_kept,
        "ending": study.record.ending,
        "evaluations": len(evaluations),
        "evaluation_seconds": round(sum(r.outcome.duration_s for r in evaluations), 1),
        "forward_batches": sum(r.outcome.n_batches for r in evaluations),
        "hypervolume": [g.hypervolume for g in study.generations()],
        "front": [s.as_dict() for s in study.front()],
        "exported": None,
    }


def solution_figure(task: Task, shared: SharedWeights, kind: Picture) -> Figure:
    """Return a picture of a built solution: its codebook over the weights, or bytes per tensor."""
    if kind == "bytes":
        return plots.plot_bytes(size(shared, coder=task.codec.coder, notes=task.notes))
    # Rows and columns that were rescaled have left the units of the float weights.
    state = None if task.method.rescales else load_network(task).state
    return plots.plot_codebook(shared, state)


def _processor() -> str:
    """Return the processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
