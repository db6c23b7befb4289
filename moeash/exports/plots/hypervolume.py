"""The picture of hypervolumes: how a search got to its front."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moeash.errors import InputError
from moeash.exports.plots.canvas import PAGE_WIDTH, STYLE, legend_below, new_figure, top_axis
from moeash.exports.plots.comparing import check_alike, style_of
from moeash.study.study import Study


def plot_hypervolume(studies: Sequence[Study]) -> Figure:
    """Draw the hypervolume of the front after each generation.

    The number of distinct candidates is on the upper axis for one study, in the legend for several.

    Raises:
        InputError: a study has no generation yet, or the studies minimise different sizes.
    """
    check_alike(
        studies, "objectives", "minimise different sizes, so their hypervolumes do not compare"
    )
    histories = [study.generations() for study in studies]
    for study, history in zip(studies, histories, strict=True):
        if not history:
            raise InputError(
                f"study {study.name!r} has finished no generation yet; nothing to draw"
            )
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(0.36 * PAGE_WIDTH + 0.6)
        handles = []
        for position, (study, history) in enumerate(zip(studies, histories, strict=True)):
            colour, line = style_of(position)
            (drawn,) = axes.plot(
                [g.index for g in history],
                [g.hypervolume for g in history],
                drawstyle="steps-post",
                color=colour,
                linestyle=line,
                linewidth=1.2,
                label=f"{study.name} ({history[-1].n_evaluations:,} evaluations)",
            )
            axes.plot(history[-1].index, history[-1].hypervolume, "o", color=colour, markersize=3.5)
            handles.append(drawn)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
        axes.margins(x=0.03, y=0.08)
        axes.set_xlabel("generation")
        axes.set_ylabel("hypervolume")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.5)
        axes.set_axisbelow(True)
        if len(studies) > 1:
            legend_below(figure, handles)
        else:
            evaluations = {g.index: g.n_evaluations for g in histories[0]}
            ticks = [int(t) for t in axes.get_xticks() if t in evaluations]
            top = top_axis(axes, ticks, [f"{evaluations[t]:,}" for t in ticks])
            top.set_xlabel("distinct candidates")
    return figure
