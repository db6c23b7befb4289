"""What ``moeash run`` leaves behind: the front as JSON and pictures, and the exported file."""

import json
import platform
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from moeash.codec.replace import replace_file
from moeash.codec.size import size
from moeash.errors import ExportError
from moeash.evaluation.evaluate import Evaluator
from moeash.exports import plots
from moeash.exports.export import ExportReport, export_solution
from moeash.study.plan import task_of
from moeash.study.spec.output import OutputOptions
from moeash.study.storage.records import REMEASURED, StudyFacts
from moeash.study.study import Study


def write_output(study: Study, options: OutputOptions) -> tuple[ExportReport, list[str]]:
    """Export the picked solution and write the study's front beside it.

    Args:
        study: a finished study.
        options: folder and pick.

    Returns:
        The export's report, and the paths written.

    Raises:
        ExportError: the folder cannot be written.
        InputError: no solution is within ``options.max_drop``.
    """
    folder = Path(options.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot create {folder}: {error.strerror}") from error
    solution = study.pick(options.pick, max_drop=options.max_drop, max_bytes=options.max_bytes)
    evaluator = Evaluator(task_of(study))
    try:
        report = export_solution(evaluator, solution, folder / f"{study.name}.moeash")
        figures = {
            "front.png": plots.plot_front([study], chosen=solution.id),
            "hypervolume.png": plots.plot_hypervolume([study]),
            "codebook.png": _draw(evaluator, study, solution.id, "codebook"),
            "bytes.png": _draw(evaluator, study, solution.id, "bytes"),
        }
    finally:
        evaluator.close()
    for name, figure in figures.items():
        plots.save(figure, folder / name)
    summary = json.dumps(summarise(study, report), indent=2, allow_nan=False) + "\n"
    replace_file(folder / "front.json", summary.encode())
    return report, [str(folder / name) for name in (*figures, "front.json")]


def summarise(study: Study, report: ExportReport) -> dict[str, Any]:
    """Return a finished study and its exported solution as plain values for JSON."""
    evaluations = study.evaluations()
    facts = study.facts
    return {
        "study": facts.name,
        "spec": dict(facts.spec),
        "environment": _versions(facts) | {"processor": _processor()},
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
        "exported": report.as_dict(),
    }


def _versions(facts: StudyFacts) -> dict[str, Any]:
    """Return the environment without what is a result."""
    return {k: v for k, v in facts.environment.items() if k not in ("keeping", REMEASURED)}


def solution_figure(study: Study, kind: Literal["codebook", "bytes"], number: int | None) -> Figure:
    """Return a picture of one solution, rebuilt; the knee of the front unless ``number`` names one.

    Args:
        study: with a spec from which its network can be loaded.
        kind: the codebook over the weights, or the bytes per tensor.
        number: a solution's id.
    """
    evaluator = Evaluator(task_of(study))
    try:
        chosen = study.pick("knee").id if number is None else number
        return _draw(evaluator, study, chosen, kind)
    finally:
        evaluator.close()


def _draw(
    evaluator: Evaluator, study: Study, number: int, kind: Literal["codebook", "bytes"]
) -> Figure:
    task = evaluator.task
    shared = evaluator.build(study.solution(number).record.job)
    if kind == "codebook":
        return plots.plot_codebook(shared, evaluator.network.state)
    return plots.plot_bytes(size(shared, coder=task.codec.coder, notes=task.notes))


def _processor() -> str:
    """Return the processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
