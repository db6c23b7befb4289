"""Make the comparison's table, plot and JSON from ``rows.jsonl``.

    python studies/comparison/compare.py              # from the rows that are there
    python studies/comparison/compare.py --refresh    # measure fronts that were not trained first

Writes ``comparison.json``, ``comparison.png`` and the tables of README.md.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from equal_cost import size_at
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from rows import Row, kl_points, read_rows
from solutions import put_solutions
from tables import put_table

from moeash.exports.plots.canvas import COLOURS, INK, MUTED, STYLE, legend_below, nice_ticks, save
from moeash.study.spec.reading import parse_spec

HERE = Path(__file__).parent
FRONTS = HERE.parent / "results"


@dataclass(frozen=True)
class Network:
    """A network that everybody compresses.

    Attributes:
        name: of its table.
        source: in the rows.
        title: in table and plot.
        kl: holdout KL at which the table compares bytes, in nats an image.
    """

    name: str
    source: str
    title: str
    kl: float


NETWORKS = (
    Network("lenet300", "lenet300", "LeNet-300-100, MNIST", 0.01),
    Network("lenet5", "lenet5", "LeNet-5, MNIST", 0.01),
    Network("resnet20", "resnet20", "ResNet-20, CIFAR-10 (JPEG copy)", 0.03),
    Network(
        "efficientnet-lite0",
        "efficientnet_lite_pytorch:EfficientNet.from_name",
        "EfficientNet-Lite0, ImageNet sample",
        0.05,
    ),
)

DROPS = (0.001, 0.005, 0.01)
"""Search drops the table picks files by."""

NEAR = 6.0
"""Points whose KL is within this factor of the wanted one say what is needed there."""

DRAWN_DROP = (-0.004, 0.03)
DRAWN_KL = (1e-3, 0.5)


@dataclass(frozen=True)
class Series:
    """Rows that are one way to compress.

    Attributes:
        label: in the table and the legend.
        peer: of the rows.
        has: settings have all of these words in them.
        lacks: and none of these.
        colour: of the marks; None for what is in the table only.
        marker: filled for moeash, hollow for peers.
    """

    label: str
    peer: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    colour: str | None = None
    marker: str = "o"

    @property
    def ours(self) -> bool:
        """Whether it is moeash's."""
        return self.peer.startswith("moeash")

    def rows(self, rows: Sequence[Row], network: Network) -> list[Row]:
        """Return the rows of a network that belong here, smallest file first."""
        return [
            row
            for row in rows
            if row["network"] == network.source
            and row["peer"] == self.peer
            and all(word in row["setting"] for word in self.has)
            and not any(word in row["setting"] for word in self.lacks)
        ]


SERIES = (
    Series("moeash feedback, distilled", "moeash feedback distilled", colour="#7A1FA2", marker="*"),
    Series("moeash feedback", "moeash feedback", colour=COLOURS[0], marker="o"),
    Series("moeash uniform", "moeash uniform", colour=COLOURS[5], marker="D"),
    Series("moeash gpfq", "moeash gpfq", colour=COLOURS[2], marker="s"),
    Series("moeash wfn", "moeash wfn", colour="#8C564B", marker="p"),
    Series("moeash wfn, distilled", "moeash wfn distilled", colour="#8C564B", marker="*"),
    Series("moeash pwfn", "moeash pwfn", colour="#7F7F7F", marker="h"),
    Series("NNCodec", "NNCodec", colour=COLOURS[1], marker="^"),
    Series("coremltools k-means", "coremltools", ("kmeans",), ("norms",), COLOURS[3], "v"),
    Series(
        "coremltools k-means, norms kept", "coremltools", ("kmeans", "norms"), (), COLOURS[3], "P"
    ),
    Series("coremltools uniform", "coremltools", ("uniform",), ("norms",)),
    Series("int8, per channel", "int8", ("per channel",), ("zipped",), INK, "x"),
    Series("int8, per tensor, zipped", "int8", ("per tensor", "zipped"), (), COLOURS[4], "+"),
)


def picked(rows: Sequence[Row], drop: float) -> Row | None:
    """Return the smallest file whose drop on the search split is within a limit."""
    within = [row for row in rows if row["search_drop"] <= drop + 1e-12]
    return min(within, key=lambda row: row["size_bytes"], default=None)


def bytes_at(rows: Sequence[Row], kl: float) -> float | None:
    """Return the bytes at which rows reach a holdout KL; None where no two lie around it."""
    near = kl_points(row for row in rows if kl / NEAR <= row["holdout_kl"] <= kl * NEAR)
    if len({cost for _, cost in near}) < 2:
        return None
    n_bytes, inside = size_at(near, kl)
    return n_bytes if inside else None


def table(rows: Sequence[Row], network: Network) -> str:
    """Return the Markdown table of a network: one line a series."""
    heads = [f"search drop <= {drop:g}" for drop in DROPS]
    lines = [
        f"| {network.title} | {' | '.join(heads)} | holdout KL = {network.kl:g} |",
        "|---|" + "---|" * (len(DROPS) + 1),
    ]
    for series in SERIES:
        mine = series.rows(rows, network)
        if not mine:
            continue
        cells = [_cell(picked(mine, drop)) for drop in DROPS]
        n_bytes = bytes_at(mine, network.kl)
        cells.append("" if n_bytes is None else f"{n_bytes:,.0f}")
        lines.append(f"| {series.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    return "" if row is None else f"{row['size_bytes']:,} ({row['holdout_drop']:.4f})"


def every_row(rows: Sequence[Row]) -> str:
    """Return all rows as a Markdown table."""
    lines = [
        "| network | peer | setting | bytes | search drop | holdout drop | holdout KL |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['network']} | {row['peer']} | {row['setting']} | {row['size_bytes']:,} "
        f"| {row['search_drop']:.4f} | {row['holdout_drop']:.4f} | {row['holdout_kl']:.2g} |"
        for row in rows
    ]
    return "\n".join(lines)


def draw(rows: Sequence[Row]) -> Figure:
    """Draw bytes against holdout drop, and against holdout KL, one column a network."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.4, 5.6), dpi=200, layout="constrained")
        grid = figure.subplots(2, len(NETWORKS), sharex="col")
        for column, network in enumerate(NETWORKS):
            drops, divergences = grid[0, column], grid[1, column]
            _panel(drops, rows, network, "holdout_drop", DRAWN_DROP)
            _panel(divergences, rows, network, "holdout_kl", DRAWN_KL)
            drops.axhline(0, color=MUTED, linewidth=0.6, linestyle=(0, (5, 2.5)), zorder=1)
            drops.set_title(network.title)
            drops.tick_params(axis="x", which="both", length=0)
            divergences.set_yscale("log")
            divergences.set_ylim(*DRAWN_KL)
            _bytes_axis(divergences)
        grid[0, 0].set_ylabel("top-1 drop on the holdout split")
        grid[1, 0].set_ylabel("KL(float || compressed), holdout (nats)")
        drawn = [s for s in SERIES if s.colour and any(s.rows(rows, n) for n in NETWORKS)]
        legend_below(figure, [_mark(series) for series in drawn])
    return figure


def _panel(
    axes: Axes, rows: Sequence[Row], network: Network, what: str, limits: tuple[float, float]
) -> None:
    axes.set_xscale("log")
    axes.set_ylim(*limits)
    for series in SERIES:
        if series.colour is None:
            continue
        mine = series.rows(rows, network)
        axes.plot(
            [row["size_bytes"] / 1e3 for row in mine],
            [row[what] for row in mine],
            zorder=3 if series.ours else 2,
            **_look(series),
        )
    axes.grid(color="#ececec", linewidth=0.5)
    axes.set_axisbelow(True)


def _look(series: Series) -> dict[str, Any]:
    return {
        "color": series.colour,
        "marker": series.marker,
        "markersize": 4.5,
        "markerfacecolor": series.colour if series.ours else "none",
        "markeredgewidth": 0.9,
        "linewidth": 1.3 if series.ours else 0.8,
        "linestyle": "-" if series.ours else (0, (3, 1.5)),
    }


def _mark(series: Series) -> Line2D:
    return Line2D([], [], label=series.label, **_look(series))


def _bytes_axis(axes: Axes) -> None:
    low, high = axes.get_xlim()

    def place(value: float) -> float:
        return float(np.log(value / low) / np.log(high / low))

    ticks = nice_ticks(low, high, place, gap=0.13)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.set_xlabel("size of the file (kB)")


def main() -> None:
    """Refresh what is asked for, then write table, plot and JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refresh", action="store_true", help="measure moeash's fronts again")
    if parser.parse_args().refresh:
        fronts = {path: json.loads(path.read_text()) for path in FRONTS.glob("*/front.json")}
        put_solutions(sorted(p for p in fronts if not parse_spec(fronts[p]["spec"]).trained_by))
    rows = read_rows()
    for network in NETWORKS:
        put_table(network.name, table(rows, network))
    put_table("rows", every_row(rows))
    summary = {
        network.name: {
            series.label: {
                "picked": {str(drop): picked(mine, drop) for drop in DROPS},
                "bytes_at_kl": {str(network.kl): bytes_at(mine, network.kl)},
                "rows": mine,
            }
            for series in SERIES
            if (mine := series.rows(rows, network))
        }
        for network in NETWORKS
    }
    (HERE / "comparison.json").write_text(json.dumps(summary, indent=1) + "\n")
    save(draw(rows), HERE / "comparison.png")


if __name__ == "__main__":
    main()
