import numpy as np
import pytest

from moeash.errors import InputError
from moeash.exports.plots import plot_front, save
from moeash.exports.plots.front import staircase
from tests.exports.pictures import BASELINE, CORNERS, POINTS, artist, legend, points


def test_the_step_line_turns_at_exactly_the_fronts_points(make_study):
    line = artist(plot_front([make_study(POINTS)]), "study: front")
    *corners, end = line.get_xydata().tolist()
    np.testing.assert_allclose(corners, CORNERS)
    assert end[1] == 0.91  # runs on to the right edge
    assert end[0] > 150


def test_the_step_line_is_never_above_what_was_attained_nor_below(make_study):
    study = make_study(POINTS)
    line = artist(plot_front([study]), "study: front")
    path = line.get_path()  # the corners; the style says how they are joined
    assert line.get_drawstyle() == "steps-post"  # a value holds until the next size
    x, y = path.vertices.T
    solutions = study.solutions()
    for kilobytes in np.linspace(40, 150, 997):
        attained = max(s.metric for s in solutions if s.size_bytes / 1e3 <= kilobytes)
        assert y[np.searchsorted(x, kilobytes, side="right") - 1] == attained


def test_a_front_over_entries_draws_only_its_corners_in_bytes(make_study):
    # 2 has fewer entries than 3, so it is on the front, though larger and worse than 3.
    study = make_study(
        [(0.5, 50_000), (0.6, 99_000), (0.7, 80_000)], objectives=("entries", "size_bytes")
    )
    assert [s.id for s in study.front()] == [1, 3, 2]
    assert [s.id for s in staircase(study.front())] == [1, 3]
    x, _ = artist(plot_front([study]), "study: front").get_data()
    assert list(x[:-1]) == [50, 80]


def test_the_picture_ends_a_little_below_the_lowest_solution_however_low_is_wanted(make_study):
    low, high = (
        plot_front([make_study([(0.88, 5_000), (0.9, 9_000)], max_drop=0.5)]).axes[0].get_ylim()
    )
    assert 0.87 < low < 0.88 and 0.9 < high < 0.92


def test_equal_solutions_are_one_corner_the_first(make_study):
    study = make_study([(0.5, 50_000), (0.5, 50_000)])
    assert [s.id for s in staircase(study.solutions())] == [1]


def test_every_complete_evaluation_is_drawn_once_by_its_stage_and_stopped_ones_are_not(make_study):
    figure = plot_front([make_study(POINTS)])
    assert points(figure, "study: search") == {(90, 0.84), (80, 0.85), (150, 0.90)}
    assert points(figure, "study: search on front") == {(40, 0.30), (60, 0.80), (120, 0.91)}
    assert points(figure, "study: merged") == {(75, 0.86)}
    assert points(figure, "study: merged on front") == {(70, 0.87), (110, 0.895)}
    assert {"front (5)", "search (6)", "merged (3)"} < set(legend(figure))


def test_a_line_joins_a_parent_and_its_smallest_merge_on_the_front(make_study):
    study = make_study([*POINTS, (0.90, 115_000, 5)])  # on the front, but larger than number 10
    segments = artist(plot_front([study]), "study: merges").get_segments()
    ends = {tuple(map(tuple, segment.tolist())) for segment in segments}
    assert ends == {((80, 0.85), (70, 0.87)), ((120, 0.91), (110, 0.895))}


@pytest.mark.parametrize("metrics", [(0.2, 0.3), (0.95, 0.99), (BASELINE, BASELINE)])
def test_the_axis_contains_the_baseline_and_the_best(make_study, metrics):
    study = make_study([(m, 10_000 * i) for i, m in enumerate(metrics, start=1)])
    axes = plot_front([study]).axes[0]
    low, high = axes.get_ylim()
    assert low < BASELINE < high
    assert low < max(metrics) < high
    assert artist(axes.figure, "baseline").get_ydata()[0] == BASELINE
    assert "float network 0.9" in legend(axes.figure)


def test_hopeless_candidates_do_not_squeeze_the_picture_and_are_marked_at_its_edge(make_study):
    figure = plot_front([make_study(POINTS, max_drop=0.05)])
    bottom = figure.axes[0].get_ylim()[0]
    assert 0.84 < bottom < 0.85
    assert {x for x, _ in points(figure, "study: below")} == {40, 60, 90}
    assert "below the axis (3)" in legend(figure)


def test_the_studys_own_max_drop_sets_the_depth(make_study):
    figure = plot_front([make_study(POINTS, max_drop=0.1)])
    assert 0.78 < figure.axes[0].get_ylim()[0] < 0.80
    assert "front (4)" in legend(figure)


def test_a_study_with_nothing_wanted_draws_its_points_without_a_front(make_study):
    figure = plot_front([make_study(POINTS[:4], max_drop=0.01)])
    assert "front (0)" in legend(figure)
    assert not [a for a in figure.axes[0].lines if a.get_label() == "study: front"]


def test_the_knee_and_the_chosen_solution_are_told_in_the_legend(make_study):
    study = make_study(POINTS)
    labels = legend(plot_front([study], chosen=4))
    knee = study.pick("knee").id
    assert any(
        label.startswith((f"knee: id {knee},", f"knee (below): id {knee},")) for label in labels
    )
    assert "chosen: id 4, 5 entries, 90 kB (11.1\u00d7), drop 0.0600" in labels


def test_a_chosen_solution_is_inside_the_picture_however_bad(make_study):
    assert plot_front([make_study(POINTS)], chosen=1).axes[0].get_ylim()[0] < 0.30


def test_a_front_of_one_point_is_drawn(make_study, tmp_path):
    figure = plot_front([make_study([(0.88, 50_000)])])
    assert artist(figure, "study: front").get_xydata()[0].tolist() == [50, 0.88]
    save(figure, tmp_path / "one.png")


def test_studies_are_overlaid_in_colours_of_their_own_only_where_they_compare(make_study):
    a = make_study(POINTS, name="a")
    b = make_study(POINTS, name="b", baseline=0.92, original_bytes=2_000_000)
    figure = plot_front([a, b])
    colours = {artist(figure, f"{name}: front").get_color() for name in "ab"}
    assert len(colours) == 2
    assert "b, front (5), float network 0.92" in legend(figure)
    assert not any(label.startswith("float network") for label in legend(figure))
    assert not figure.axes[0].child_axes  # two networks have no common ratio
    other = make_study(POINTS, name="c", metric_name="top5")
    with pytest.raises(InputError, match=r"'a' \(top1\) and 'c' \(top5\)"):
        plot_front([a, other])
    with pytest.raises(InputError, match="could be of any of 2 studies"):
        plot_front([a, b], chosen=1)


def test_the_ratio_axis_says_original_over_file_bytes(make_study):
    (top,) = plot_front([make_study(POINTS)]).axes[0].child_axes
    assert len(top.get_xticks()) >= 3
    for kilobytes, label in zip(top.get_xticks(), top.get_xticklabels(), strict=True):
        assert float(label.get_text()[:-1]) == pytest.approx(1000 / kilobytes, rel=1e-3)


def test_no_text_leaves_the_figure_nor_covers_the_data(make_study):
    figure = plot_front([make_study(POINTS)], chosen=3)
    figure.draw_without_rendering()
    inside = figure.bbox.padded(1)
    boxes = [figure.axes[0].get_tightbbox(), figure.legends[0].get_window_extent()]
    for box in boxes:
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert inside.y0 <= box.y0
        assert box.y1 <= inside.y1
    assert not boxes[0].overlaps(boxes[1])


def test_a_study_without_a_complete_evaluation_says_what_it_has_instead(make_study):
    with pytest.raises(InputError, match="'study' has no evaluation yet"):
        plot_front([make_study()])
    with pytest.raises(InputError, match=r"2 stopped early, .*evaluation\.max_drop, and 0 failed"):
        plot_front([make_study([(None, 5_000), (None, 6_000)], name="other")])
    with pytest.raises(InputError, match="at least one study"):
        plot_front([])
