"""Commands about studies: run, front, plot, export."""

import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from moeash.cli.show import (
    AcceptOption,
    AllowOption,
    ForceOption,
    JsonOption,
    MovedOption,
    RetryOption,
    SpecOption,
    StorageOption,
    bytes_text,
    find_modules_here,
    front_table,
    keep_stdout,
    percent,
    print_json,
    say,
)
from moeash.core.solutions.recipe import entries_text
from moeash.errors import InputError
from moeash.files import check_target
from moeash.runtime.collecting import uncollected

if TYPE_CHECKING:
    from moeash.exports.export import ExportReport

StudyArgument = Annotated[str, typer.Argument(help="Name of a stored study.", metavar="STUDY")]
PickName = Literal["smallest", "knee", "best"]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="moeash, safetensors, torch, onnx or c; several: one file each, named by suffix. "
        "Default: what --to is named like.",
        show_default=False,
    ),
]


def run(
    spec: Annotated[Path, typer.Argument(help="TOML file of the study.", metavar="SPEC")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a spec value, e.g. seed=1."),
    ] = None,
    backend: Annotated[
        Literal["inprocess", "ray"] | None,
        typer.Option("--backend", help="Where to evaluate; the options below imply ray."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Workers on Ray.", show_default=False)
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option("--gpus-per-worker", min=0, help="GPUs reserved; 0.5: two share one."),
    ] = None,
    cpus_per_worker: Annotated[
        float | None, typer.Option("--cpus-per-worker", min=0, help="CPUs reserved for a worker.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="auto or HOST:PORT of a Ray head; default: its own Ray."),
    ] = None,
    retry_failed: RetryOption = False,
    accept_baseline: AcceptOption = False,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Run a study, or continue it; write its front, plots and picked file."""
    from moeash.console.progress import for_terminal
    from moeash.console.words import TOLERABLE_DROP

    flags = backend_overrides(
        backend,
        workers=workers,
        gpus_per_worker=gpus_per_worker,
        cpus_per_worker=cpus_per_worker,
        address=address,
    )
    from moeash.study.spec.reading import load_spec

    checked = load_spec(spec, [*(overrides or []), *flags])
    find_modules_here(checked)
    drop = checked.output.max_drop if checked.output is not None else None
    display = for_terminal(tolerable_drop=TOLERABLE_DROP if drop is None else drop)
    try:
        with uncollected():
            from moeash.api.studies import run_with_output

        with keep_stdout(json_):
            study, output = run_with_output(
                checked,
                storage=storage,
                progress=display,
                retry_failed=retry_failed,
                accept_baseline=accept_baseline,
            )
    finally:
        display.close()
    solutions = study.front()
    report = None if output is None else output.report
    paths = () if output is None else output.paths
    if json_:
        print_json(
            {
                "study": study.name,
                "ending": study.record.ending,
                "front": [s.as_dict() for s in solutions],
                "exported": None if report is None else report.as_dict(),
                "files": paths,
            }
        )
    else:
        front_table(study.facts, solutions)
        if report is not None:
            show_export(report)
        for path in paths:
            say(f"wrote {path}")
    if output is not None and output.refusal is not None:
        raise output.refusal


def backend_overrides(kind: str | None, **values: Any) -> list[str]:
    """Return the flags of a backend as ``--set`` would say them."""
    given = {name: value for name, value in values.items() if value is not None}
    if kind == "inprocess":  # whatever the file says of workers is about Ray
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise typer.BadParameter(f"{flags} need --backend ray", param_hint="--backend")
        return ['backend={kind="inprocess"}']
    if kind is None and not given:
        return []
    return ['backend.kind="ray"'] + [
        f"backend.{name}={json.dumps(value)}" for name, value in given.items()
    ]


def front(study: StudyArgument, storage: StorageOption = None, json_: JsonOption = False) -> None:
    """Print the Pareto front, smallest file first."""
    from moeash.study.opening import open_study

    opened = open_study(study, storage)
    solutions = opened.front()
    if json_:
        print_json([s.as_dict() for s in solutions])
        return
    front_table(opened.facts, solutions)


def plot(
    studies: Annotated[list[str], typer.Argument(help="Studies to draw.", metavar="STUDY...")],
    to: Annotated[Path, typer.Option("--to", help="PNG or SVG file to write.")],
    kind: Annotated[
        Literal["front", "hypervolume", "codebook", "bytes"],
        typer.Option("--kind", help="What to draw."),
    ] = "front",
    id_: Annotated[
        int | None,
        typer.Option("--id", help="Solution for codebook and bytes, or marked in front."),
    ] = None,
    spec: SpecOption = None,
    moved: MovedOption = None,
    allow: AllowOption = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Draw the front, the hypervolume history, a codebook, or bytes per tensor."""
    from moeash.exports import plots
    from moeash.study.opening import open_study

    check_target(to, force=True)
    one_only = kind in ("codebook", "bytes")
    if one_only and len(studies) != 1:
        raise typer.BadParameter(f"--kind {kind} draws one study, got {len(studies)}")
    if len(studies) > 1 and (spec or moved or allow):
        raise typer.BadParameter("--spec, --set and --allow-module are for one study")
    opened = [
        open_study(name, storage, spec=spec, settings=moved or [], allow_modules=allow or [])
        for name in studies
    ]
    if kind == "front":
        figure = plots.plot_front(opened, chosen=id_)
    elif kind == "hypervolume":
        figure = plots.plot_hypervolume(opened)
    else:
        from moeash.exports.building import building, check_rebuilt
        from moeash.exports.output import solution_figure
        from moeash.study.plan import task_of

        find_modules_here(opened[0].spec)
        solution = opened[0].pick("knee") if id_ is None else opened[0].solution(id_)
        with building(opened[0]) as build:
            shared = build(solution.record.recipe)
        check_rebuilt(solution, shared)  # else it would be a picture of another one
        figure = solution_figure(task_of(opened[0]), shared, kind)
    plots.save(figure, to)
    print_json({"wrote": str(to)}) if json_ else say(f"wrote {to}")


def export(
    study: StudyArgument,
    to: Annotated[Path, typer.Option("--to", help="File to write.")],
    pick: Annotated[
        PickName | None,
        typer.Option(help="Which solution of the front; default smallest.", show_default=False),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Only solutions at most this far below the float network.")
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option(help="Only solutions of at most so many bytes.")
    ] = None,
    id_: Annotated[int | None, typer.Option("--id", help="A solution's id instead.")] = None,
    formats: FormatsOption = None,
    force: ForceOption = False,
    report_to: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Also write what was exported, its inspection and digest, as JSON.",
        ),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="Also write a model card of what was measured, FILE.md.")
    ] = False,
    accept_baseline: AcceptOption = False,
    spec: SpecOption = None,
    moved: MovedOption = None,
    allow: AllowOption = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Export a solution as a verified file, measured on the holdout split.

    Formats: moeash, safetensors, torch, onnx, c.
    """
    limits = (pick, max_drop, max_bytes)
    if id_ is not None and any(limit is not None for limit in limits):
        raise typer.BadParameter("--id names one solution; leave out --pick and its limits")
    _check_targets(to, formats or [], report_to, card=card, force=force)
    with uncollected():
        from moeash.api.files import export as export_file
    from moeash.console.progress import for_terminal
    from moeash.study.opening import open_study

    opened = open_study(study, storage, spec=spec, settings=moved or [], allow_modules=allow or [])
    find_modules_here(opened.spec)
    with keep_stdout(json_), closing(for_terminal()) as display:
        report = export_file(
            opened,
            to,
            pick=pick or "smallest",
            max_drop=max_drop,
            max_bytes=max_bytes,
            id=id_,
            format=formats,
            accept_baseline=accept_baseline,
            force=force,
            progress=display,
        )
    if report_to is not None:
        from moeash.cli.files import inspection
        from moeash.launch.exports import write_report

        paths = [Path(report.path).with_name(file.name) for file in report.files]
        inspected = [
            inspection(path)
            for path, file in zip(paths, report.files, strict=True)
            if file.format == "moeash"
        ]
        write_report(report_to, paths, report.as_dict(), next(iter(inspected), None))
    if card:
        from moeash.exports.interop.card import write_card

        write_card(opened, report)
    if json_:
        print_json(report.as_dict())
    else:
        show_export(report)


def _check_targets(
    to: Path, formats: list[str], report_to: Path | None, *, card: bool, force: bool
) -> None:
    """Refuse what cannot be written, or would replace another of these files, before any work."""
    from moeash.exports.formats.names import CARD, targets

    named = [(path, "the exported file") for _, path in targets(to, formats)]
    if report_to is not None:
        named.append((report_to, "--report"))
    if card:
        named.append((named[0][0].with_suffix(CARD), "--card"))
    taken: dict[str, str] = {}
    for path, what in named:
        other = taken.setdefault(os.path.realpath(path), what)
        if other != what:
            raise InputError(f"{what} and {other} are both {str(path)!r}; give another name")
        check_target(path, force=force)


def show_export(report: "ExportReport") -> None:
    """Print what was exported."""
    solution = report.solution
    say(
        f"exported solution {solution['id']} to {report.path}: {bytes_text(report.size_bytes)}, "
        f"ratio {report.ratio:.2f}, {solution['bits_per_weight']:.3f} bits/weight, "
        f"{entries_text(solution['entries'])}; decoded and compared bit for bit"
    )
    for file in report.files[1:]:
        say(f"with it, as {file.format}: {file.name}, {bytes_text(file.size_bytes)}")
    holdout, exact = report.holdout, report.holdout_float
    if holdout is None or exact is None:
        say("no holdout split, so the exported network was not measured on unseen images")
        return
    say(
        f"holdout ({holdout.n_images:,} images): top-1 {percent(holdout.top1)} "
        f"[95 %: {percent(holdout.top1_low)} to {percent(holdout.top1_high)}], "
        f"float {percent(exact.top1)}, drop {exact.top1 - holdout.top1:+.4f}"
    )
    again = report.holdout_remeasured
    if again is not None:
        say(
            f"float with BatchNorms measured again: top-1 {percent(again.top1)}, "
            f"{again.metric_name} {again.metric:.4f}"
        )
    from moeash.evaluation.options import unit_of

    if holdout.metric_name != "top1":
        say(
            f"holdout {holdout.metric_name}: {holdout.metric:.4f}, float {exact.metric:.4f}, "
            f"drop {exact.metric - holdout.metric:+.4f}{unit_of(holdout.metric_name)}"
        )
