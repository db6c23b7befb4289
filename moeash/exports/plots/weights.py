"""Pictures of one compressed network: where its entries lie, and where its bytes go."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from moeash.codec.size import SizeReport
from moeash.core.codebook import SharedWeights, State
from moeash.errors import InputError
from moeash.exports.plots.canvas import (
    COLOURS,
    INK,
    MUTED,
    PAGE_WIDTH,
    STYLE,
    as_text,
    legend_below,
    new_figure,
)

Row = tuple[str | None, str, float]
"""Tensor, part of the file, bytes. The tensor is None for parts that belong to no tensor."""

LARGEST = 20
"""Tensors with a bar of their own."""

LETTERS = 47
"""Letters of a tensor's name that fit beside its bar."""

_TAIL = 1e-4
"""Share of the weights on either side that may lie outside the picture."""

_SAMPLE = 1 << 20
"""Weights looked at to choose the range shown; everything drawn or counted uses all of them."""

_PART_COLOURS = {"indices": COLOURS[0], "table": COLOURS[5], "kept": COLOURS[4]}


def plot_codebook(shared: SharedWeights, state: State | None) -> Figure:
    """Draw codebook entries as stems over the histogram of the float weights.

    Both count weights, on one logarithmic axis: a bar those in its interval, a stem those that use
    the entry. The right axis is the same as a share of all shared weights. Long tails are cut where
    they would squeeze the rest, and what lies outside is told.

    Args:
        shared: the compressed network.
        state: the float network it was made from; None where its weights have other units than the
            codebook, as rows and columns were rescaled. The histogram is then left out, and the
            legend says so.

    Raises:
        InputError: there is no shared weight, or ``state`` is not the state of ``shared``.
    """
    if not shared.n_shared:
        raise InputError("the network has no shared weight, so there is no codebook to draw")
    entries, counts = _usage(shared)
    weights = _decoded(shared) if state is None else _shared_weights(shared, state)
    low, high = _range(weights)
    bars, edges = _histogram(weights, low, high)
    inside = (entries >= low) & (entries <= high)
    n = shared.n_shared

    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(0.36 * PAGE_WIDTH + 0.6)
        axes.set_yscale("log")
        # Half a weight lies below every count, so that a single one is visible.
        axes.set_ylim(0.5, 2.5 * max(bars.max(), counts.max()))
        axes.set_xlim(low, high)
        if state is not None:
            axes.stairs(bars, edges, fill=True, baseline=0.5, color="#c9ced6", label="weights")
        few = len(entries) <= 64
        axes.vlines(
            entries[inside],
            0.5,
            counts[inside],
            colors=COLOURS[1],
            linewidth=0.9 if few else 0.35,
            label="stems",
        )
        axes.plot(
            entries[inside],
            counts[inside],
            "o",
            color=COLOURS[1],
            markersize=3.2 if few else 1.3,
            markeredgewidth=0,
            label="entries",
        )
        axes.set_xlabel("weight" if state is not None else "weight, rows and columns rescaled")
        axes.set_ylabel("number of weights")
        share = axes.secondary_yaxis(
            "right", functions=(lambda y: np.divide(y, n), lambda y: np.multiply(y, n))
        )
        share.set_ylabel("share of weights")
        share.spines["right"].set_visible(True)
        for axis in (axes.yaxis, share.yaxis):
            axis.set_major_locator(LogLocator(numticks=8))
            axis.set_minor_locator(NullLocator())
        share.yaxis.set_major_formatter(FuncFormatter(_percent))
        legend_below(figure, _codebook_legend(shared, weights, entries, low, high, state))
    return figure


def rows_of(report: SizeReport) -> list[Row]:
    """Return what :func:`plot_bytes` draws of a report; the rows sum to the exact size.

    A shared tensor's indices come with its own table. Kept tensors that end alike are coded
    together, so ``*.bias`` stands for all biases.
    """
    rows: list[Row] = [
        (t.name, "indices", t.size_bytes)
        if t.role == "shared"
        else (_ending(t.names), "kept", t.size_bytes)
        for t in report.tensors
    ]
    rows += [
        (None, "header, checksum", report.header + report.checksum),
        (None, "codebook", report.codebooks),
    ]
    rest = report.total - sum(n_bytes for _, _, n_bytes in rows)
    return [*rows, (None, "common tables, padding", rest)]


def _ending(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"*.{names[0].rpartition('.')[2]}"


def plot_bytes(content: SizeReport | Iterable[Row]) -> Figure:
    """Draw the bytes of a file as stacked bars, one a tensor, largest first.

    The :data:`LARGEST` tensors have a bar of their own; the others share one. Parts that belong to
    no tensor, such as header and codebook, always have their own.

    Args:
        content: the exact size of a file, or rows that say what every part of every tensor costs;
            rows of one tensor and part are summed.

    Raises:
        InputError: there is no row, or a row is negative.
    """
    rows = rows_of(content) if isinstance(content, SizeReport) else content
    bars, parts = _stack(rows)
    total = sum(sum(values.values()) for _, values in bars)
    if not total > 0:
        raise InputError("there are no bytes to draw")
    palette = _part_palette(parts, {name for name, _ in bars})
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(0.5 + 0.155 * len(bars))
        for position, (_, values) in enumerate(bars):
            left = 0.0
            for part in parts:
                if part in values:
                    axes.barh(
                        position,
                        values[part] / 1e3,
                        left=left / 1e3,
                        height=0.74,
                        color=palette[part],
                        label=part,
                    )
                    left += values[part]
            axes.annotate(
                f"{left / 1e3:,.2f} ({_percent(left / total, None)})",
                (left / 1e3, position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=6.5,
                color=INK,
            )
        widest = max(sum(values.values()) for _, values in bars) / 1e3
        axes.set_xlim(0, widest / 0.78)  # with room for the numbers beside the bars
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.set_yticks(range(len(bars)), [as_text(_short(name, LETTERS)) for name, _ in bars])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("kB")
        axes.set_title(f"{total:,.0f} bytes", loc="left")
        named = [Patch(color=palette[part], label=part) for part in parts if palette[part] != MUTED]
        if named:
            legend_below(figure, named)
    return figure


def _shared_weights(shared: SharedWeights, state: State) -> list[NDArray[Any]]:
    values = {p.name: p.values for p in state if p.role == "shared" and p.values is not None}
    weights = []
    for tensor in shared.shared:
        found = values.get(tensor.name)
        if found is None or found.size != tensor.size:
            raise InputError(
                f"the state has {0 if found is None else found.size} shared weights "
                f"for {tensor.name!r}, needed {tensor.size}; pass the state it was made from"
            )
        weights.append(found.reshape(-1))
    return weights


def _decoded(shared: SharedWeights) -> list[NDArray[Any]]:
    return [shared.codebooks[t.codebook].entries[t.indices] for t in shared.shared]


def _usage(shared: SharedWeights) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the entries some weight uses, and how many use each, sorted by value."""
    entries = np.concatenate([c.entries for c in shared.codebooks]).astype(np.float64)
    used = np.concatenate(shared.usage())
    order = np.argsort(entries, kind="stable")
    order = order[used[order] > 0]
    return entries[order], used[order]


def _range(weights: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return the interval to show: all weights, unless few of them take most of it."""
    n = sum(w.size for w in weights)
    stride = -(-n // _SAMPLE)
    sample = np.concatenate([w[::stride] for w in weights]).astype(np.float64)
    low = float(min(w.min(initial=np.inf) for w in weights))
    high = float(max(w.max(initial=-np.inf) for w in weights))
    lower, upper = np.quantile(sample, [_TAIL, 1 - _TAIL])
    pad = 0.15 * (upper - lower) or 0.05 * abs(upper) or 1.0
    # A cut must gain room: an end no further away than the bulk is wide is shown.
    left = low if lower - low <= max(upper - lower, pad) else lower - pad
    right = high if high - upper <= max(upper - lower, pad) else upper + pad
    margin = 0.02 * (right - left) or pad
    return float(left - margin), float(right + margin)


def _histogram(
    weights: Sequence[NDArray[Any]], low: float, high: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    edges = np.linspace(low, high, 201)
    bars = np.zeros(len(edges) - 1, dtype=np.int64)
    for values in weights:  # one at a time: a copy of all of them can be gigabytes
        bars += np.histogram(values, bins=edges)[0]
    return bars, edges


def _codebook_legend(
    shared: SharedWeights,
    weights: Sequence[NDArray[Any]],
    entries: NDArray[np.float64],
    low: float,
    high: float,
    state: State | None,
) -> list[Any]:
    n_books = len(shared.codebooks)
    books = f" in {n_books} codebooks" if n_books > 1 else ""
    floats = (
        Patch(color="#c9ced6", label=f"{shared.n_shared:,} float weights")
        if state is not None
        else Patch(
            facecolor="none",
            edgecolor=MUTED,
            linestyle=":",
            label=f"{shared.n_shared:,} float weights left out: they have other units",
        )
    )
    handles: list[Any] = [
        floats,
        Line2D(
            [],
            [],
            color=COLOURS[1],
            marker="o",
            markersize=3.2,
            linewidth=0.9,
            label=f"{len(entries):,} entries{books}",
        ),
    ]
    n_outside = sum(int(((w < low) | (w > high)).sum()) for w in weights)
    e_outside = int(((entries < low) | (entries > high)).sum())
    if n_outside or e_outside:
        least = min(float(w.min(initial=np.inf)) for w in weights)
        most = max(float(w.max(initial=-np.inf)) for w in weights)
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker="$\\leftrightarrow$",
                markersize=8,
                markeredgewidth=0,
                color=MUTED,
                label=(
                    f"outside: {n_outside:,} weights, {e_outside:,} entries "
                    f"({least:.3g} to {most:.3g})"
                ),
            )
        )
    return handles


def _percent(share: float, _: object) -> str:
    return f"{100 * share:.2g} %" if share < 0.0995 else f"{100 * share:.0f} %"


def _stack(rows: Iterable[Row]) -> tuple[list[tuple[str, dict[str, float]]], list[str]]:
    """Return bars (name, bytes by part), and all parts in the order they are stacked."""
    tensors: dict[str, dict[str, float]] = {}
    alone: dict[str, float] = {}
    parts: dict[str, None] = dict.fromkeys(_PART_COLOURS)
    seen = set()
    for name, part, n_bytes in rows:
        if n_bytes < 0:
            raise InputError(f"{name or 'the file'} has {n_bytes} bytes of {part}")
        seen.add(part)
        parts.setdefault(part)
        if name is None:
            alone[part] = alone.get(part, 0.0) + n_bytes
        else:
            tensor = tensors.setdefault(name, {})
            tensor[part] = tensor.get(part, 0.0) + n_bytes
    # Equal tensors stay in the network's order: sorted is stable.
    ordered = sorted(tensors.items(), key=lambda item: -sum(item[1].values()))
    # A bar for "1 other" would take as much room as the tensor itself.
    shown = ordered if len(ordered) == LARGEST + 1 else ordered[:LARGEST]
    rest = ordered[len(shown) :]
    bars = list(shown)
    if rest:
        others: dict[str, float] = {}
        for _, values in rest:
            for part, n_bytes in values.items():
                others[part] = others.get(part, 0.0) + n_bytes
        bars.append((f"{len(rest)} others", others))
    bars += [(part, {part: n_bytes}) for part, n_bytes in alone.items()]
    return bars, [part for part in parts if part in seen]


def _part_palette(parts: Sequence[str], bars: Collection[str]) -> dict[str, str]:
    """Give every part a colour; those whose bar bears their name need none to be told apart."""
    spare = [c for c in COLOURS if c not in _PART_COLOURS.values()]
    palette = dict(_PART_COLOURS)
    for part in parts:
        if part not in palette:
            palette[part] = MUTED if part in bars else spare[len(palette) % len(spare)]
    return palette


def _short(name: str, characters: int) -> str:
    """Keep the end of a long name: it tells tensors of one layer apart."""
    return name if len(name) <= characters else "…" + name[-(characters - 1) :]
