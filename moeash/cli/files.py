"""Commands about ``.moeash`` files: verify, inspect, decompress."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moeash.cli.show import (
    ForceOption,
    JsonOption,
    StorageOption,
    bytes_text,
    find_modules_here,
    keep_stdout,
    percent,
    print_json,
    say,
    table,
    working,
)
from moeash.core.solutions.recipe import entries_text
from moeash.files import check_target

if TYPE_CHECKING:  # verify and inspect load it when they are called, the help never
    from moeash.codec.inspection import BookUse

PARTS = ("header", "codebooks", "tables", "indices", "kept", "checksum")

FileArgument = Annotated[Path, typer.Argument(help="A .moeash file.", metavar="FILE")]

MaxBytesOption = Annotated[
    int | None,
    typer.Option(
        "--max-bytes",
        min=1,
        help="Most bytes that the file may ask for, of memory or of the disk it is decoded to; "
        "default the larger of 128 MiB and 1,024 times the file.",
    ),
]


def verify(
    file: FileArgument,
    study: Annotated[
        str | None, typer.Option("--study", help="Compare with what this study measured, too.")
    ] = None,
    storage: StorageOption = None,
    max_bytes: MaxBytesOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a file: checksum, structure, decoding; and that it encodes to the same bytes again."""
    from moeash.codec.inspection import verify as check
    from moeash.errors import ContainerError

    report = check(file, max_bytes=max_bytes)
    fingerprint = report.fingerprint
    matches: list[int] = []
    if study is not None:
        from moeash.study.opening import open_study

        solutions = open_study(study, storage).solutions()
        matches = [s.id for s in solutions if s.record.outcome.fingerprint == fingerprint]
        if not matches:
            raise ContainerError(
                f"{file} is intact, but study {study!r} measured no solution with these weights"
            )
    if json_:
        print_json(
            {
                "file": str(file),
                "ok": True,
                "size_bytes": report.size_bytes,
                "fingerprint": fingerprint,
                "solutions": matches,
            }
        )
        return
    say(f"{file}: {bytes_text(report.size_bytes)}, intact; fingerprint {fingerprint}")
    if matches:
        say(f"holds exactly the weights study {study} measured as solution {matches[0]}")


def inspect(
    file: FileArgument, max_bytes: MaxBytesOption = None, json_: JsonOption = False
) -> None:
    """Show the bytes of every part and tensor of a file."""
    summary = inspection(file, max_bytes=max_bytes)
    if json_:
        print_json(summary)
        return
    total = summary["size_bytes"]
    say(
        f"{file}: {bytes_text(total)}, ratio {summary['ratio']:.2f}; {summary['n_shared']:,} "
        f"weights on {entries_text(summary['entries'])} at {summary['bits_per_weight']:.3f} bits "
        f"(entropy {summary['entropy']:.3f}), {summary['n_kept']:,} kept; {summary['coder']}, "
        f"version {summary['version']}"
    )
    for key, value in summary["notes"].items():
        say(f"note {key}: {value}")
    table(
        "parts",
        [("part", "left"), ("bytes", "right"), ("share", "right")],
        [[part, f"{n:,}", percent(n / total)] for part, n in summary["parts"].items()],
    )
    table(
        "tensors",
        [
            ("name", "left"),
            ("role", "left"),
            ("elements", "right"),
            ("bytes", "right"),
            ("bits/element", "right"),
            ("table", "left"),
        ],
        [
            [
                row["name"],
                row["role"],
                f"{row['elements']:,}",
                f"{row['bytes']:,.1f}",
                f"{row['bits_per_element']:.3f}" if row["elements"] else "-",
                _together(row["table"]),
            ]
            for row in summary["tensors"]
        ],
    )


def inspection(file: Path, *, max_bytes: int | None = None) -> dict[str, Any]:
    """Return what ``moeash inspect --json`` prints."""
    from moeash.codec.container import VERSION
    from moeash.codec.inspection import open_and_size

    uses, report = open_and_size(file, max_bytes=max_bytes)
    return {
        "file": str(file),
        "size_bytes": report.total,
        "ratio": report.ratio,
        "version": VERSION,
        "coder": report.coder,
        "notes": dict(report.notes),
        "n_shared": report.n_shared,
        "n_kept": report.n_kept,
        "entries": report.n_entries,
        "bits_per_weight": report.bits_per_weight,
        "entropy": report.entropy,
        "parts": {name: getattr(report, name) for name in PARTS},
        "codebooks": _codebooks(uses),
        "tensors": [
            {
                "name": tensor.name,
                "names": list(tensor.names),
                "role": tensor.role,
                "elements": tensor.n_elements,
                "bytes": tensor.size_bytes,
                "bits_per_element": tensor.bits_per_weight if tensor.n_elements else None,
                "table": tensor.table,
            }
            for tensor in report.tensors
        ],
    }


def _codebooks(uses: "Sequence[BookUse]") -> list[dict[str, Any]]:
    """Return each codebook's entries that some weight uses, and how many use each."""
    found = []
    for book in uses:
        used = book.counts > 0
        found.append(
            {
                "tensors": list(book.tensors),
                "values": book.entries[used].astype(float).tolist(),
                "counts": book.counts[used].tolist(),
            }
        )
    return found


def _together(kinds: str) -> str:
    """Shorten the kinds of a kept group's byte planes: ``own/own/flat`` to ``2 own, flat``."""
    runs = [(kind, len(list(run))) for kind, run in itertools.groupby(kinds.split("/"))]
    return ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in runs)


def decompress(
    file: FileArgument,
    to: Annotated[Path, typer.Option("--to", help="File to write.")],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="safetensors, torch, onnx or c. Default: what --to is named like.",
            show_default=False,
        ),
    ] = None,
    spec: Annotated[
        Path | None,
        typer.Option(
            "--spec", help="For onnx: TOML file of a study with the network and images to run."
        ),
    ] = None,
    force: ForceOption = False,
    max_bytes: MaxBytesOption = None,
    json_: JsonOption = False,
) -> None:
    """Write the decoded network in another format: safetensors, torch, onnx or c."""
    check_target(to, force=force)
    from moeash.exports.decompressing import decompress as write_decoded

    with keep_stdout(json_), working() as progress:
        network, inputs = (None, None) if spec is None else _network_of(spec)
        written = write_decoded(
            file,
            to,
            format=format_,
            network=network,
            inputs=inputs,
            max_bytes=max_bytes,
            force=force,
            progress=progress,
        )
    if json_:
        print_json(
            {"wrote": str(to), "tensors": len(written.names), "size_bytes": written.size_bytes}
        )
    else:
        say(f"wrote {to}: {len(written.names)} tensors, {bytes_text(written.size_bytes)}")


def _network_of(spec: Path) -> tuple[Any, Any]:
    """Return the network that a spec describes, and batches of its images."""
    from moeash.exports.runnable import images_of
    from moeash.networks.loading.sources import read_network
    from moeash.study.spec.reading import load_spec

    described = load_spec(spec)
    find_modules_here(described)
    task = described.task()
    return read_network(task.network).module, images_of(task)
