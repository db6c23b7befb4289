"""``moeash compress``: one file without a study."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moeash.cli.show import (
    ForceOption,
    JsonOption,
    bytes_text,
    find_modules_here,
    keep_stdout,
    percent,
    print_json,
    say,
    working,
)
from moeash.core.solutions.recipe import entries_text
from moeash.runtime.collecting import uncollected

if TYPE_CHECKING:
    from moeash.compression.weights.compressing import WeightsReport
    from moeash.exports.reaching import Measured

SHOWN = 4
"""Names of kept tensors that are listed."""


def compress(
    network: Annotated[
        Path,
        typer.Argument(
            metavar="NETWORK",
            help="A safetensors checkpoint, the index of a sharded one, or a folder with either; "
            "or the TOML file of a study, whose network, data and method count.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="File to write.")],
    k: Annotated[
        int | None, typer.Option("--k", help="Checkpoint: bins of the one codebook.")
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option("--bits", help="Checkpoint: about how many bits a weight shall take."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            help="Checkpoint: most that the weights of each shared tensor may move by, in the "
            "norm, relative to its norm, e.g. 0.1.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Checkpoint: share only tensors that match."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Checkpoint: keep tensors that match."),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(
            "--max-kl", help="Study: largest divergence from the float network, in nats, e.g. 0.01."
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="Study: largest drop of its metric, e.g. 0.005; of top-1 where that is the "
            "divergence.",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None, typer.Option("--max-bytes", help="Study: largest file, in bytes.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Study: override a value, e.g. seed=1."),
    ] = None,
    force: ForceOption = False,
    json_: JsonOption = False,
) -> None:
    """Compress one network to one verified file, without running a study.

    A checkpoint is compressed by its weights alone, tensor by tensor, whatever its size; with the
    TOML file of a study the network runs on its images, and the file meets a goal.
    """
    of_checkpoint = {
        "--k": k,
        "--bits": bits,
        "--max-error": max_error,
        "--include": include,
        "--exclude": exclude,
    }
    of_study = {
        "--max-kl": max_kl,
        "--max-drop": max_drop,
        "--max-bytes": max_bytes,
        "--set": overrides,
    }
    if network.suffix == ".toml":
        _refuse(of_checkpoint, "a checkpoint, and this is a study", of_study)
        _of_study(network, overrides or [], to, max_kl, max_drop, max_bytes, force, json_)
        return
    _refuse(of_study, "a study's TOML file, and this is a checkpoint", of_checkpoint)
    from moeash.compression.weights.compressing import compress_checkpoint
    from moeash.runtime.threads import default_threads

    with working() as progress:
        report = compress_checkpoint(
            network,
            to,
            k=k,
            bits=bits,
            max_error=max_error,
            include=include,
            exclude=exclude,
            force=force,
            n_threads=default_threads(),
            progress=progress,
        )
    if json_:
        print_json({"wrote": str(to)} | dataclasses.asdict(report))
    else:
        _show(to, report)


def _refuse(given: Mapping[str, object], what: str, instead: Mapping[str, object]) -> None:
    for option, value in given.items():
        if value is not None:
            raise typer.BadParameter(f"{option} is for {what}; use one of {', '.join(instead)}")


def _of_study(
    path: Path,
    overrides: list[str],
    to: Path,
    max_kl: float | None,
    max_drop: float | None,
    max_bytes: int | None,
    force: bool,
    json_: bool,
) -> None:
    from moeash.console.progress import for_terminal
    from moeash.study.spec.reading import load_spec

    spec = load_spec(path, overrides)
    find_modules_here(spec)
    display = for_terminal()  # before torch is imported, so that nobody looks at nothing
    try:
        with uncollected():
            from moeash.api.one_file import compress_spec

        with keep_stdout(json_):
            report = compress_spec(
                spec,
                to,
                max_kl=max_kl,
                max_drop=max_drop,
                max_bytes=max_bytes,
                force=force,
                progress=display,
            )
    finally:
        display.close()
    if json_:
        print_json(report.as_dict())
        return
    say(
        f"wrote {report.path}: {bytes_text(report.size_bytes)}, ratio {report.ratio:.2f}, "
        f"{report.bits_per_weight:.3f} bits/weight, {entries_text(report.entries)}; "
        f"{report.recipe}, the best of {report.n_evaluated} tried; decoded and compared bit for bit"
    )
    for name, measured in (("search", report.search), ("holdout", report.holdout)):
        if measured is not None:
            say(_measured(name, measured))


def _measured(name: str, measured: "Measured") -> str:
    own = ""
    if measured.metric_name != "top1":
        own = f", {measured.metric_name} {measured.metric:.4f}, drop {measured.drop:+.4f}"
    return (
        f"{name} ({measured.n_images:,} images): divergence {measured.divergence:.5f} nats, top-1 "
        f"{percent(measured.top1)}, float {percent(measured.top1_float)}, drop "
        f"{measured.top1_float - measured.top1:+.4f}{own}"
    )


def _show(to: Path, report: "WeightsReport") -> None:
    say(
        f"wrote {to}: {bytes_text(report.size_bytes)} of {bytes_text(report.checkpoint_bytes)}, "
        f"ratio {report.ratio:.2f} to float32; {report.n_shared:,} weights on {report.n_entries} "
        f"entries (k = {report.k}) at {report.bits_per_weight:.3f} bits, {report.n_kept:,} kept; "
        "decoded and compared bit for bit"
    )
    say(f"largest relative error of a tensor: {report.worst_error:.4g} ({report.worst})")
    if report.kept_for_error:
        names = report.kept_for_error
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        say(
            f"kept as they are, because sharing them within the error takes more bytes: "
            f"{', '.join(names[:SHOWN])}{more}"
        )
