"""``moeash compress``: one file without a study."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moeash.cli.show import JsonOption, bytes_text, print_json, say, working

if TYPE_CHECKING:
    from moeash.compression.weights.compressing import WeightsReport

SHOWN = 4
"""Names of kept tensors that are listed."""


def compress(
    network: Annotated[
        Path,
        typer.Argument(
            metavar="NETWORK",
            help="A safetensors checkpoint, the index of a sharded one, or a folder with either.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="File to write.")],
    k: Annotated[int | None, typer.Option("--k", help="Bins of the one codebook.")] = None,
    bits: Annotated[
        float | None, typer.Option("--bits", help="About how many bits a weight shall take.")
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(
            "--max-error",
            help="Most that the weights of each shared tensor may move by, in the norm, relative "
            "to its norm, e.g. 0.1.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Share only tensors whose names match; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Keep tensors whose names match; repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    json_: JsonOption = False,
) -> None:
    """Compress a checkpoint by its weights alone to a verified file, tensor by tensor."""
    from moeash.compression.weights.compressing import compress_checkpoint

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
            n_threads=len(os.sched_getaffinity(0)),
            progress=progress,
        )
    if json_:
        print_json({"wrote": str(to)} | dataclasses.asdict(report))
    else:
        _show(to, report)


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
