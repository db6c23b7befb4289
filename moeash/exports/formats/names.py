"""Names of formats and of the files they are written to; loads neither torch nor any format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from moeash.errors import InputError
from moeash.names import nearest

FormatName = Literal["moeash", "safetensors", "torch", "onnx", "c"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)

WITH_NETWORK: frozenset[FormatName] = frozenset({"onnx"})
"""Formats that hold the computation too, so that the weights alone do not suffice."""

SUFFIXES: dict[FormatName, tuple[str, ...]] = {
    "moeash": (".moeash",),
    "safetensors": (".safetensors",),
    "torch": (".pt", ".pth"),
    "onnx": (".onnx",),
    "c": (".h",),
}
"""How names of files end by format; the first is the one a file gets that is not named."""

CARD = ".md"
"""How the name of a model card ends, which lies beside its file."""


def format_name(name: str) -> FormatName:
    """Return the format of a name.

    Raises:
        InputError: there is none.
    """
    for known in FORMATS:
        if name == known:
            return known
    raise InputError(f"no format is called {name!r}; {nearest(name, FORMATS)}")


def format_by_suffix(to: Path) -> FormatName | None:
    """Return the format whose files are named like ``to``; None where no format's are."""
    return next((name for name, ends in SUFFIXES.items() if to.suffix in ends), None)


def targets(
    to: Path, names: Sequence[str], *, default: FormatName = "moeash"
) -> list[tuple[FormatName, Path]]:
    """Return which format goes to which file.

    One format is written to ``to`` itself; several to files beside it, which have its name with
    their own suffixes.

    Args:
        to: the file that was asked for.
        names: of the formats. Without any, it is the one that ``to`` is named like.
        default: the format of a file that is named like none.

    Raises:
        InputError: a format is unknown or given twice, or the only file is named like another's,
            or like a source file of C, where only a header is written.

    Example:
        >>> targets(Path("net.onnx"), [])
        [('onnx', PosixPath('net.onnx'))]
        >>> targets(Path("net.moeash"), ["moeash", "c"])
        [('moeash', PosixPath('net.moeash')), ('c', PosixPath('net.h'))]
    """
    by_suffix = format_by_suffix(to)
    chosen = [format_name(name) for name in names] or [by_suffix or default]
    if len({*chosen}) < len(chosen):
        raise InputError(f"formats {', '.join(chosen)} name one twice; give each once")
    if len(chosen) > 1:
        base = to if by_suffix is None else to.with_suffix("")
        return [(name, base.with_name(base.name + SUFFIXES[name][0])) for name in chosen]
    (name,) = chosen
    if to.suffix == ".c":
        raise InputError(
            f"{to.name!r} is named like a source file of C, and C gets a header; call it "
            f"{to.with_suffix('.h').name!r}"
        )
    if by_suffix not in (None, name):
        raise InputError(
            f"{to.name!r} is named like a file of format {by_suffix}, but {name} was asked for; "
            f"call it {to.with_suffix(SUFFIXES[name][0]).name!r}"
        )
    return [(name, to)]
