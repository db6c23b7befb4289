"""What all pictures share: their look, nice ticks, and files that are equal for equal pictures.

Figures are built with matplotlib's object interface. There is no pyplot here, so no window, no
list of open figures, and nothing to close.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axes._secondary_axes import SecondaryAxis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from moeash.errors import InputError
from moeash.files import replacing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito, "Color Universal Design" (2008), without yellow, which is faint on white."""

INK = "#222222"
MUTED = "#767676"

PAGE_WIDTH = 6.8

TIMES = "\N{MULTIPLICATION SIGN}"

# A matplotlibrc in the working folder, or at home, could have a LaTeX run for every text.
_DEFAULTS = {
    key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")
}

STYLE: dict[Any, Any] = {
    **_DEFAULTS,
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


def as_text(name: str) -> str:
    r"""Return a name of somebody else as matplotlib draws it: what is between two $ is no formula.

    Example:
        >>> print(as_text("$x$"))
        \$x\$
    """
    return name.replace("$", r"\$")


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Return a figure of a page's width and ``height`` inches, and its axes, within STYLE."""
    figure = Figure(figsize=(PAGE_WIDTH, height), dpi=200, layout="constrained")
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
    with matplotlib.rc_context(STYLE), _settled(figure):
        figure.savefig(buffer, format=suffix[1:], dpi=200, metadata=_METADATA[suffix])
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


@contextmanager
def _settled(figure: Figure) -> Iterator[None]:
    """Hold the layout still at rounded positions.

    How many ticks fit depends on the layout and it on them, so it takes a few rounds; and its last
    bits never settle, which would make every drawing of one figure another file.
    """
    engine = figure.get_layout_engine()
    before: list[NDArray[Any]] = []
    for _ in range(10):
        figure.draw_without_rendering()
        after = [np.round(axes.get_position().bounds, 6) for axes in figure.axes]
        if np.array_equal(after, before):
            break
        before = after
    figure.set_layout_engine("none")
    try:
        for axes, bounds in zip(figure.axes, after, strict=True):
            left, bottom, width, height = bounds.tolist()
            axes.set_position((left, bottom, width, height))
        yield
    finally:
        for axes in figure.axes:
            axes.set_in_layout(True)  # set_position took them out
        if engine is not None:
            figure.set_layout_engine(engine)


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend below the axes, where it hides no point, and make the figure taller by it."""
    labels = [str(handle.get_label()) for handle in handles]
    columns = _columns(labels, 72 * figure.get_figwidth())
    figure.set_figheight(figure.get_figheight() + 0.14 * -(-len(labels) // columns) + 0.12)
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
        labelspacing=0.35,
    )


def _columns(labels: Sequence[str], points: float) -> int:
    """Return how many columns of a legend fit, filled as matplotlib fills them: down, then on."""
    for columns in range(len(labels), 1, -1):
        filled = np.array_split(np.array([len(label) for label in labels]), columns)
        # A letter of size 7 is 4 points wide on average; a handle and its gaps are 28.
        if sum(4.0 * int(lengths.max()) + 28 for lengths in filled) <= points:
            return columns
    return 1


def nice_ticks(
    low: float, high: float, place: Callable[[float], float], *, gap: float
) -> list[float]:
    """Return round numbers in ``[low, high]`` that lie at least ``gap`` apart on an axis.

    Rounder numbers are placed first, so that they win. Of two digits they are enough, unless the
    axis is so short that fewer than two of them lie on it.

    Args:
        low: positive.
        high: not below ``low``.
        place: where on the axis a value lies, 0 to 1.
        gap: least distance between two ticks, as a fraction of the axis.
    """
    tenths = tuple(tenth / 10 for tenth in range(10, 100))
    steps = ((1.0,), (2.0, 5.0), (3.0, 7.0), (1.5, 4.0, 6.0, 8.0), (1.2, 2.5, 9.0), tenths)
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks: list[float] = []

    def put(values: Iterable[float]) -> None:
        for value in values:
            if low <= value <= high and all(abs(place(value) - place(t)) >= gap for t in ticks):
                ticks.append(value)

    for mantissas in steps:
        put(sorted(m * 10.0**decade for decade in decades for m in mantissas))
    step = 10.0 ** (decades[0] - 1)
    while len(ticks) < 2 and step > 1e-6 * low and high - low < 10 * step:
        step /= 10
        put(i * step for i in range(int(low / step), int(high / step) + 2))
    return sorted(ticks)


def top_axis(axes: Axes, ticks: Sequence[float], labels: Sequence[str]) -> SecondaryAxis:
    """Return a second axis above, with ticks at places of the lower one."""
    top = axes.secondary_xaxis("top")
    top.spines["top"].set_visible(True)
    top.set_xticks(list(ticks), list(labels))
    top.xaxis.set_minor_locator(NullLocator())
    return top
