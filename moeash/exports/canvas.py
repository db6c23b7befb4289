"""What all pictures share: their look, nice ticks, and files that are equal for equal pictures.

Figures are built with matplotlib's object interface. There is no pyplot here, so no window, no
list of open figures, and nothing to close.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moeash.errors import InputError
from moeash.exports.files import replace_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito, "Color Universal Design" (2008), without yellow, which is faint on white."""

INK = "#222222"
MUTED = "#767676"

COLUMN_WIDTH = 3.3
PAGE_WIDTH = 6.8

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 7.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": False,
    "legend.frameon": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "moeash",  # ids in the file are random without it
}

# The writers' default metadata holds the date (SVG) and matplotlib's version (both).
_METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of ``width`` by ``height`` inches and its axes. Call it within STYLE."""
    if not width > 0:
        raise InputError(f"a figure needs a positive width in inches, got {width}")
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained")
    return figure, figure.add_subplot()


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG (200 dpi) or SVG, whichever the suffix says.

    Equal figures give equal bytes. An existing file is replaced only when the new one is complete.

    Raises:
        InputError: another suffix; nothing is written.
        ExportError: the file cannot be written; an existing file is kept.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        raise InputError(f"cannot draw to {path.name!r}; name a file that ends in .png or .svg")
    buffer = io.BytesIO()
    # Ticks are made while drawing and look up their style then.
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=_METADATA[suffix])
    replace_file(path, buffer.getvalue())


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend below the axes, where it hides no point, in as many columns as fit."""
    longest = max(len(handle.get_label()) for handle in handles)
    column = 4.2 * longest + 30  # points: letters of size 7, the handle and the gap
    columns = int(np.clip(72 * figure.get_figwidth() // column, 1, len(handles)))
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
        labelspacing=0.35,
    )


def nice_ticks(
    low: float, high: float, place: Callable[[float], float], *, gap: float
) -> list[float]:
    """Return round numbers in ``[low, high]`` that lie at least ``gap`` apart on an axis.

    Rounder numbers are placed first, so that they win.

    Args:
        low: positive.
        high: not below ``low``.
        place: where on the axis a value lies, 0 to 1.
        gap: least distance between two ticks, as a fraction of the axis.
    """
    steps = ((1.0,), (2.0, 5.0), (3.0, 7.0), (1.5, 4.0, 6.0, 8.0), (1.2, 2.5, 9.0), (1.1, 1.3, 1.7))
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []
    for mantissas in steps:
        for value in sorted(m * 10.0**decade for decade in decades for m in mantissas):
            if low <= value <= high and all(abs(place(value) - place(t)) >= gap for t in ticks):
                ticks.append(value)
    return sorted(ticks)
