"""The picture of fronts: what sizes were reached at what metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moeash.core.solutions.pareto import non_dominated
from moeash.core.solutions.recipe import entries_text
from moeash.errors import InputError
from moeash.exports.plots.canvas import (
    INK,
    MUTED,
    PAGE_WIDTH,
    STYLE,
    TIMES,
    as_text,
    legend_below,
    new_figure,
    nice_ticks,
    top_axis,
)
from moeash.exports.plots.comparing import check_alike, style_of
from moeash.study.solution import Solution, front_of, pick
from moeash.study.study import Study

MARKERS = (("search", "o"), ("refined", "s"), ("merged", "D"), ("distilled", "^"), ("tuned", "v"))
BASELINE: dict[str, Any] = {"linestyle": (0, (5, 2.5)), "linewidth": 0.8}
AREA = 9.0
"""Area of a marker; those on the front are larger."""


@dataclass(frozen=True)
class _View:
    """One reading of a study, which may still be running.

    Attributes:
        study: where it was read.
        colour: its colour in the picture.
        line: its line style.
        solutions: complete evaluations by number.
        front: the wanted ones nobody dominates, smallest first.
    """

    study: Study
    colour: str
    line: Any
    solutions: list[Solution]
    front: list[Solution]

    @property
    def baseline(self) -> float:
        return self.study.facts.baseline

    def staged(self, stage: str) -> list[Solution]:
        return [s for s in self.solutions if s.record.stage == stage]


def plot_front(
    studies: Sequence[Study],
    *,
    chosen: int | None = None,
) -> Figure:
    """Draw the metric on the search split over the size of the file.

    The step line is the metric attained at a size: the best of the front that is no larger. It
    belongs to the two axes drawn, so a front over other sizes may have points below it. Stopped
    evaluations are left out: all that is known of them is a bound, which lies just under the front
    by the very rule that stopped them, and so would look like results.

    The picture reaches as far below the baseline as the study's ``max_drop``, else to the median of
    the front. What lies below is marked at the edge.

    Args:
        studies: one or more, with the same metric.
        chosen: number of a solution to point out; for one study only.

    Raises:
        InputError: there is nothing to draw, metrics differ, or ``chosen`` is not to be had.
    """
    views = _read(studies)
    picked = _chosen(studies, chosen)
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(0.42 * PAGE_WIDTH + 0.75)
        low = min(map(_lowest, views))
        if picked is not None:
            low = min(low, picked.metric)
        _limits(axes, views, low)
        for view in views:
            _draw_points(axes, view)
            _draw_staircase(axes, view)
        n_below = _mark_below(axes, views)
        _draw_baselines(axes, views)
        handles = _front_legend(views, n_below)
        if len(views) == 1 and views[0].front:
            handles.append(_point_out(axes, "knee", pick(views[0].front, "knee"), "s"))
        if picked is not None:
            handles.append(_point_out(axes, "chosen", picked, "o"))
        axes.set_xlabel("size of the file (kB)")
        axes.set_ylabel(as_text(f"{studies[0].facts.metric_name} on the search split"))
        _ratio_axis(axes, {view.study.facts.original_bytes for view in views})
        legend_below(figure, handles)
    return figure


def staircase(solutions: Sequence[Solution]) -> list[Solution]:
    """Return the solutions of which none is smaller and as good, nor better and as small.

    They are the corners of the attained metric over the size of the file, smallest first.
    """
    if not solutions:
        return []
    f = np.array([(s.size_bytes, -s.metric) for s in solutions], dtype=np.float64)
    corners = {
        (s.size_bytes, s.metric): s
        for s, keep in reversed(list(zip(solutions, non_dominated(f), strict=True)))
        if keep
    }
    return [corners[key] for key in sorted(corners)]


def _read(studies: Sequence[Study]) -> list[_View]:
    check_alike(studies, "metric_name", "have different metrics; draw them one by one")
    views = []
    for position, study in enumerate(studies):
        solutions = study.solutions()
        if not solutions:
            raise InputError(f"study {study.name!r} has {_instead(study)}; nothing to draw")
        floor = study.facts.wanted_floor
        front = front_of([s for s in solutions if s.metric >= floor])
        views.append(_View(study, *style_of(position), solutions, front))
    return views


def _instead(study: Study) -> str:
    """Say what a study has that has no complete evaluation."""
    (counted,) = study.storage.summaries([study.name])
    n = {status: counted.n(status=status) for status in ("stopped", "failed")}
    if not any(n.values()):
        return "no evaluation yet"
    return (
        f"no complete evaluation: {n['stopped']:,} stopped early, being certain to fall short of "
        f"evaluation.max_drop, and {n['failed']:,} failed"
    )


def _chosen(studies: Sequence[Study], number: int | None) -> Solution | None:
    if number is None:
        return None
    if len(studies) > 1:
        raise InputError(f"solution {number} could be of any of {len(studies)} studies; draw one")
    return studies[0].solution(number)


def _lowest(view: _View) -> float:
    """Return the lowest metric worth seeing."""
    floor = view.study.facts.wanted_floor
    if np.isfinite(floor):
        return floor
    return float(np.median([s.metric for s in view.front]))


def _limits(axes: Axes, views: Sequence[_View], low: float) -> None:
    metrics = [s.metric for view in views for s in view.solutions]
    high = max([*metrics, *(view.baseline for view in views)])
    # Below the last solution there is nothing to see, however far down solutions are wanted.
    low = min(max(low, min(metrics)), high, *(view.baseline for view in views))
    span = high - low or 0.02 * abs(high) or 1.0
    axes.set_ylim(low - 0.06 * span, high + 0.12 * span)
    sizes = np.array([s.size_bytes for view in views for s in view.solutions]) / 1e3
    smallest, largest = float(sizes.min()), float(sizes.max())
    pad = 0.04 * (largest - smallest) or 0.05 * largest
    # A file has at least one byte; zero would put the ratio's axis at infinity.
    axes.set_xlim(max(smallest - pad, 0.5 * smallest), largest + pad)


def _draw_points(axes: Axes, view: _View) -> None:
    on_front = {s.id for s in view.front}
    for stage, marker in MARKERS:
        solutions = view.staged(stage)
        for front in (False, True):
            shown = [s for s in solutions if (s.id in on_front) == front]
            axes.scatter(
                [s.size_bytes / 1e3 for s in shown],
                [s.metric for s in shown],
                s=1.9 * AREA if front else AREA,
                marker=marker,
                facecolors=view.colour if front else "none",
                edgecolors="white" if front else view.colour,
                linewidths=0.4 if front else 0.5,
                alpha=1.0 if front else 0.35,
                zorder=4 if front else 2,
                label=f"{view.study.name}: {stage}{' on front' if front else ''}",
            )
    by_id = {s.id: s for s in view.solutions}
    best: dict[int, Solution] = {}
    for solution in view.front:  # smallest first
        parent = solution.record.parent
        if parent is not None and parent in by_id:
            best.setdefault(parent, solution)
    axes.add_collection(
        LineCollection(
            [
                [(s.size_bytes / 1e3, s.metric) for s in (by_id[parent], child)]
                for parent, child in best.items()
            ],
            colors=view.colour,
            linewidths=0.5,
            alpha=0.6,
            zorder=3,
            label=f"{view.study.name}: merges",
        ),
        autolim=False,
    )


def _draw_staircase(axes: Axes, view: _View) -> None:
    corners = staircase(view.front)
    if not corners:
        return
    x = [s.size_bytes / 1e3 for s in corners]
    y = [s.metric for s in corners]
    axes.plot(
        [*x, axes.get_xlim()[1]],  # what is attained stays attained at larger sizes
        [*y, y[-1]],
        drawstyle="steps-post",
        color=view.colour,
        linestyle=view.line,
        linewidth=1.1,
        zorder=3.5,
        label=f"{view.study.name}: front",
    )


def _mark_below(axes: Axes, views: Sequence[_View]) -> int:
    """Mark solutions below the picture at its lower edge; return how many there are."""
    bottom = axes.get_ylim()[0]
    n_below = 0
    for view in views:
        x = [s.size_bytes / 1e3 for s in view.solutions if s.metric < bottom]
        n_below += len(x)
        axes.scatter(
            x,
            [0.018] * len(x),
            s=9,
            marker="v",
            facecolors="none",
            edgecolors=view.colour,
            linewidths=0.5,
            alpha=0.5,
            transform=axes.get_xaxis_transform(),
            label=f"{view.study.name}: below",
        )
    return n_below


def _draw_baselines(axes: Axes, views: Sequence[_View]) -> None:
    by_value: dict[float, list[_View]] = {}
    for view in views:
        by_value.setdefault(view.baseline, []).append(view)
    for value, sharing in by_value.items():
        colour = INK if len(views) == len(sharing) else sharing[0].colour
        axes.axhline(
            value,
            color=colour,
            **BASELINE,
            zorder=1.5,
            label="baseline",
        )


def _point_out(axes: Axes, what: str, solution: Solution, marker: str) -> Line2D:
    bottom = axes.get_ylim()[0]
    below = solution.metric < bottom
    (ring,) = axes.plot(
        solution.size_bytes / 1e3,
        bottom if below else solution.metric,
        linestyle="none",
        marker=marker,
        markersize=8 if marker == "s" else 10,
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=0.9,
        zorder=5,
        clip_on=False,
        label=(
            f"{what}{' (below)' if below else ''}: id {solution.id}, "
            f"{entries_text(solution.entries)}, {solution.size_bytes / 1e3:,.4g} kB "
            f"({solution.ratio:.3g}{TIMES}), drop {solution.drop:.4f}"
        ),
    )
    return ring


def _front_legend(views: Sequence[_View], n_below: int) -> list[Any]:
    one = len(views) == 1
    tint = views[0].colour if one else MUTED

    def dots(marker: str, label: str, *, filled: bool) -> Line2D:
        return Line2D(
            [],
            [],
            linestyle="none",
            marker=marker,
            markersize=4,
            markerfacecolor=tint if filled else "none",
            markeredgecolor=tint,
            markeredgewidth=0.5,
            label=label,
        )

    same_baseline = len({view.baseline for view in views}) == 1
    handles = []
    for view in views:
        label = f"front ({len(view.front):,})"
        if not one:
            label = f"{view.study.name}, {label}"
        if not same_baseline:
            label += f", float network {view.baseline:.4g}"
        handles.append(
            Line2D([], [], color=view.colour, linestyle=view.line, linewidth=1.3, label=label)
        )
    for stage, marker in MARKERS:
        count = sum(len(view.staged(stage)) for view in views)
        if count:
            handles.append(dots(marker, f"{stage} ({count:,})", filled=False))
    if same_baseline:
        label = f"float network {views[0].baseline:.4g}"
        handles.append(Line2D([], [], color=INK, label=label, **BASELINE))
    if n_below:
        handles.append(dots("v", f"below the axis ({n_below:,})", filled=False))
    return handles


def _ratio_axis(axes: Axes, original_bytes: set[int]) -> None:
    """Show float32 bytes over file bytes at the top, when it is one scale for all studies."""
    if len(original_bytes) != 1:
        return
    kilobytes = original_bytes.pop() / 1e3
    left, right = axes.get_xlim()

    def place(ratio: float) -> float:
        return (kilobytes / ratio - left) / (right - left)

    ratios = nice_ticks(kilobytes / right, kilobytes / left, place, gap=0.5 / PAGE_WIDTH)
    top = top_axis(axes, [kilobytes / r for r in ratios], [f"{r:.6g}{TIMES}" for r in ratios])
    top.set_xlabel("ratio to float32")
