import pytest

from moeash.errors import InputError
from moeash.exports.plots import plot_hypervolume


def test_the_hypervolume_holds_from_its_generation_on(make_study):
    figure = plot_hypervolume([make_study(volumes=(0.3, 0.5, 0.5, 0.6))])
    line = figure.axes[0].lines[0]
    assert line.get_xydata().tolist() == [[1, 0.3], [2, 0.5], [3, 0.5], [4, 0.6]]
    assert line.get_drawstyle() == "steps-post"
    (top,) = figure.axes[0].child_axes
    shown = dict(zip(top.get_xticks(), (t.get_text() for t in top.get_xticklabels()), strict=True))
    assert shown[4] == "80"


def test_hypervolumes_that_do_not_compare_are_refused(make_study):
    a = make_study(name="a", volumes=(0.3,))
    with pytest.raises(InputError, match="minimise different sizes"):
        plot_hypervolume([a, make_study(name="b", volumes=(0.3,), objectives=("entries",))])
    with pytest.raises(InputError, match="'c' has finished no generation"):
        plot_hypervolume([make_study(name="c")])
