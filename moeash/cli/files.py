"""Commands about ``.moeash`` files: verify, inspect, decompress."""

import itertools
from pathlib import Path
from typing import Annotated, Any

import typer

from moeash.cli.show import JsonOption, StorageOption, bytes_text, percent, print_json, table

PARTS = ("header", "codebooks", "tables", "indices", "kept", "checksum")

FileArgument = Annotated[Path, typer.Argument(help="A .moeash file.", metavar="FILE")]


def verify(
    file: FileArgument,
    study: Annotated[
        str | None, typer.Option("--study", help="Compare with what this study measured, too.")
    ] = None,
    storage: StorageOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a file: checksum, structure, decoding; and that it encodes to the same bytes again."""
    from moeash.codec.container import decode, encode
    from moeash.errors import ContainerError, CorruptContainerError

    try:
        data = file.read_bytes()
    except OSError as error:
        raise ContainerError(f"cannot read {file}: {error.strerror}") from error
    container = decode(data)
    again = encode(container.shared, coder=container.coder, notes=container.notes)
    if again != data:
        raise CorruptContainerError(f"{file} decodes, but encodes to other bytes again")
    fingerprint = container.shared.fingerprint()
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
                "size_bytes": len(data),
                "fingerprint": fingerprint,
                "solutions": matches,
            }
        )
        return
    print(f"{file}: {bytes_text(len(data))}, intact; fingerprint {fingerprint}")
    if matches:
        print(f"holds exactly the weights study {study} measured as solution {matches[0]}")


def inspect(file: FileArgument, json_: JsonOption = False) -> None:
    """Show the bytes of every part and tensor of a file."""
    from moeash.codec.container import read
    from moeash.codec.size import size

    container = read(file)
    shared = container.shared
    report = size(shared, coder=container.coder, notes=container.notes)
    stored = file.stat().st_size
    summary: dict[str, Any] = {
        "file": str(file),
        "size_bytes": stored,
        "ratio": shared.original_bytes / stored,
        "version": container.version,
        "coder": container.coder,
        "notes": dict(container.notes),
        "n_shared": shared.n_shared,
        "n_kept": shared.n_kept,
        "entries": shared.n_entries,
        "bits_per_weight": report.bits_per_weight,
        "parts": {name: getattr(report, name) for name in PARTS},
        "tensors": [
            {
                "name": tensor.name,
                "role": tensor.role,
                "elements": tensor.n_elements,
                "bytes": tensor.size_bytes,
                "bits_per_element": tensor.bits_per_weight if tensor.n_elements else None,
                "table": tensor.table,
            }
            for tensor in report.tensors
        ],
    }
    if json_:
        print_json(summary)
        return
    print(
        f"{file}: {bytes_text(stored)}, ratio {summary['ratio']:.2f}; {shared.n_shared:,} weights "
        f"on {shared.n_entries} entries at {report.bits_per_weight:.3f} bits, "
        f"{shared.n_kept:,} kept; {container.coder}, version {container.version}"
    )
    for key, value in container.notes.items():
        print(f"{key}: {value}")
    table(
        "parts",
        [("part", "left"), ("bytes", "right"), ("share", "right")],
        [[part, f"{n:,}", percent(n / stored)] for part, n in summary["parts"].items()],
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


def _together(kinds: str) -> str:
    """Shorten the kinds of a kept group's byte planes: ``own/own/flat`` to ``2 own, flat``."""
    runs = [(kind, len(list(run))) for kind, run in itertools.groupby(kinds.split("/"))]
    return ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in runs)


def decompress(
    file: FileArgument,
    to: Annotated[Path, typer.Option("--to", help="safetensors file to write.")],
    json_: JsonOption = False,
) -> None:
    """Write the decoded network as a safetensors checkpoint."""
    from moeash.exports.files import decompress as write_decoded

    arrays = write_decoded(file, to)
    size_bytes = to.stat().st_size
    if json_:
        print_json({"wrote": str(to), "tensors": len(arrays), "size_bytes": size_bytes})
    else:
        print(f"wrote {to}: {len(arrays)} tensors, {bytes_text(size_bytes)}")
