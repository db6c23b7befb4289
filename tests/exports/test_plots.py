import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from moeash.codec.size import size
from moeash.core.codebook import Codebook, Parameter, keep_all, share
from moeash.core.objectives import Sizes
from moeash.core.recipe import Recipe
from moeash.errors import ExportError, InputError
from moeash.evaluation.outcome import Job, Outcome
from moeash.exports.canvas import nice_ticks
from moeash.exports.plots import plot_bytes, plot_codebook, plot_front, plot_hypervolume, save
from moeash.exports.study_plots import staircase
from moeash.exports.weight_plots import rows_of
from moeash.study.facts import StudyFacts
from moeash.study.storage.records import EvaluationRecord, GenerationRecord, now
from moeash.study.storage.sql import SqlStorage
from moeash.study.study import Study
from tests.digits import digits_spec

BASELINE = 0.9


@pytest.fixture
def make_study(tmp_path):
    """Store a study of ``(metric, bytes)`` or ``(metric, bytes, parent)``, numbered from 1."""
    storage = SqlStorage(str(tmp_path / "studies.db"))

    def make(points=(), *, name="study", volumes=(), max_drop=None, **changed):
        facts = {
            "name": name,
            "spec": digits_spec(name=name, evaluation={"max_drop": max_drop}).to_dict(),
            "fingerprint": "f",
            "network_fingerprint": "n",
            "data_fingerprint": "d",
            "environment": {},
            "keeping": {},
            "metric_name": "top1",
            "baseline": BASELINE,
            "original_bytes": 1_000_000,
            "n_shared": 250_000,
            "n_kept": 0,
            "n_batches": 10,
            "objectives": ("size_bytes",),
            "reference": (0.0, 1e6),
        }
        record = storage.create_study(StudyFacts(**(facts | changed)))
        for number, (metric, size_bytes, *parent) in enumerate(points, start=1):
            evaluation = EvaluationRecord(
                number=number,
                stage="merged" if parent else "search",
                generation=1,
                parent=parent[0] if parent else None,
                job=Job(Recipe.of({"k": number})),
                outcome=Outcome(
                    "stopped" if metric is None else "complete",
                    metric,
                    0.95 if metric is None else metric,
                    Sizes(size_bytes, number + 1, 4.0),
                    "x",
                    10,
                    0.1,
                ),
                created_at=now(),
            )
            storage.add_evaluations(record.id, [evaluation])
        for index, volume in enumerate(volumes, start=1):
            storage.put_generation(
                record.id, GenerationRecord(index, volume, 20 * index, 5, 100, 1.0)
            )
        return Study(storage, name)

    yield make
    storage.close()


POINTS = [
    (0.30, 40_000),
    (0.80, 60_000),
    (0.85, 80_000),
    (0.84, 90_000),  # dominated
    (0.91, 120_000),
    (0.90, 150_000),  # dominated
    (None, 50_000),  # stopped
    (0.86, 75_000, 3),  # dominated by the next
    (0.87, 70_000, 3),
    (0.895, 110_000, 5),
]
CORNERS = [(40, 0.30), (60, 0.80), (70, 0.87), (110, 0.895), (120, 0.91)]


def artist(figure, label):
    """Return the one artist of the main axes with that label."""
    (found,) = (a for a in figure.axes[0].get_children() if a.get_label() == label)
    return found


def points(figure, label):
    return {tuple(np.round(xy, 9)) for xy in artist(figure, label).get_offsets().tolist()}


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


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
    for kilobytes in np.linspace(40, 150, 997):
        attained = max(s.metric for s in study.solutions() if s.size_bytes / 1e3 <= kilobytes)
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
    assert [t.get_text() for t in axes.texts] == ["float network 0.9"]


def test_hopeless_candidates_do_not_squeeze_the_picture_and_are_marked_at_its_edge(make_study):
    figure = plot_front([make_study(POINTS)], max_drop=0.05)
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
    figure = plot_front([make_study([(0.88, 50_000)])], logx=True)
    assert artist(figure, "study: front").get_xydata()[0].tolist() == [50, 0.88]
    save(figure, tmp_path / "one.png")


def test_a_study_without_complete_evaluation_is_refused_by_name(make_study):
    with pytest.raises(InputError, match="'empty' has no complete evaluation yet"):
        plot_front([make_study([(None, 50_000)], name="empty")])
    with pytest.raises(InputError, match="at least one study"):
        plot_front([])


def test_studies_are_overlaid_in_colours_of_their_own_only_where_they_compare(make_study):
    a = make_study(POINTS, name="a")
    b = make_study(POINTS, name="b", baseline=0.92, original_bytes=2_000_000)
    figure = plot_front([a, b])
    colours = {artist(figure, f"{name}: front").get_color() for name in "ab"}
    assert len(colours) == 2
    assert "b, front (5), float network 0.92" in legend(figure)
    assert not figure.axes[0].child_axes  # two networks have no common ratio
    other = make_study(POINTS, name="c", metric_name="top5")
    with pytest.raises(InputError, match=r"'a' \(top1\) and 'c' \(top5\)"):
        plot_front([a, other])
    with pytest.raises(InputError, match="could be of any of 2 studies"):
        plot_front([a, b], chosen=1)


@pytest.mark.parametrize("logx", [False, True])
def test_the_ratio_axis_says_original_over_file_bytes(make_study, logx):
    (top,) = plot_front([make_study(POINTS)], logx=logx).axes[0].child_axes
    assert len(top.get_xticks()) >= 3
    for kilobytes, label in zip(top.get_xticks(), top.get_xticklabels(), strict=True):
        assert float(label.get_text()[:-1]) == pytest.approx(1000 / kilobytes, rel=1e-3)


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


def network(weights, entries):
    """Share weights over the nearest of ``entries``, with one kept bias."""
    weights, entries = np.asarray(weights, np.float32), np.asarray(entries, np.float32)
    state = (
        Parameter("w", weights.shape, "float32", "shared", weights),
        Parameter("b", (3,), "float32", "kept", np.ones(3, np.float32)),
    )
    indices = np.abs(weights[:, None] - entries).argmin(axis=1).astype(np.uint8)
    counts = np.bincount(indices, minlength=len(entries)).astype(np.int64)
    codebooks = [Codebook(entries)]
    return share(state, codebooks, {"w": (0, indices, counts)}, keep_all(state)), state


def test_stems_stand_at_the_entries_as_high_as_their_weights():
    shared, state = network([-1, -1, -1, 0, 0.1, 1], [-1, 0, 1])
    figure = plot_codebook(shared, state)
    assert artist(figure, "entries").get_xydata().tolist() == [[-1, 3], [0, 2], [1, 1]]
    assert [s[1][1] for s in artist(figure, "stems").get_segments()] == [3, 2, 1]
    assert artist(figure, "weights").get_data().values.sum() == 6
    assert legend(figure) == ["6 float weights", "3 entries"]


def test_weights_far_outside_do_not_squeeze_the_histogram_and_are_counted():
    weights = np.concatenate([np.linspace(-1, 1, 50_000), [900.0, 1000.0]])
    shared, state = network(weights, [-0.5, 0.5, 950.0])
    figure = plot_codebook(shared, state)
    assert figure.axes[0].get_xlim()[1] < 2
    assert "outside: 2 weights, 1 entries (-1 to 1e+03)" in legend(figure)
    assert artist(figure, "weights").get_data().values.sum() == 50_000
    assert len(artist(figure, "entries").get_xdata()) == 2


def test_an_unused_entry_has_no_stem():
    shared, state = network([0.0, 1.0, 1.0], [0.0, 0.5, 1.0])
    assert artist(plot_codebook(shared, state), "entries").get_xydata().tolist() == [[0, 1], [1, 2]]


def test_equal_weights_are_drawn(tmp_path):
    shared, state = network([0.5] * 9, [0.5])
    figure = plot_codebook(shared, state)
    assert artist(figure, "entries").get_xydata().tolist() == [[0.5, 9]]
    save(figure, tmp_path / "equal.png")


def test_another_networks_state_is_refused():
    shared, _ = network([0, 1], [0, 1])
    with pytest.raises(InputError, match="has 3 shared weights for 'w', needed 2"):
        plot_codebook(shared, network([0, 1, 1], [0, 1])[1])
    with pytest.raises(InputError, match="has 0 shared weights for 'w', needed 2"):
        plot_codebook(shared, ())


def bar_widths(figure):
    """Return the bytes of every bar, by its name."""
    axes = figure.axes[0]
    names = [t.get_text() for t in axes.get_yticklabels()]
    widths = dict.fromkeys(names, 0.0)
    for patch in axes.patches:
        widths[names[round(patch.get_y() + patch.get_height() / 2)]] += 1e3 * patch.get_width()
    return widths


def test_bars_are_sorted_the_rest_summed_and_parts_of_no_tensor_kept_apart():
    rows = [(f"t{i}", part, 10.0 * i) for i in range(1, 7) for part in ("indices", "table")]
    figure = plot_bytes([(None, "header", 500), *rows], largest=3)
    widths = bar_widths(figure)
    assert list(widths) == ["t6", "t5", "t4", "3 others", "header"]
    assert list(widths.values()) == pytest.approx([120, 100, 80, 120, 500])
    assert figure.axes[0].get_title(loc="left") == "920 bytes"
    assert legend(figure) == ["indices", "table"]


def test_the_parts_of_a_bar_touch_and_do_not_overlap():
    sizes = {"indices": 30.0, "table": 20.0, "kept": 10.0}
    figure = plot_bytes([("t", part, n_bytes) for part, n_bytes in sizes.items()])
    spans = [(1e3 * p.get_x(), 1e3 * (p.get_x() + p.get_width())) for p in figure.axes[0].patches]
    np.testing.assert_allclose(spans, [(0, 30), (30, 50), (50, 60)])


def test_a_single_tensor_beyond_the_largest_keeps_its_name():
    widths = bar_widths(plot_bytes([(name, "indices", 1) for name in "abcd"], largest=3))
    assert list(widths) == ["a", "b", "c", "d"]


def test_the_bars_of_a_report_sum_to_the_files_bytes():
    rng = np.random.default_rng(3)
    shared, _ = network(rng.normal(size=5000), np.linspace(-3, 3, 20))
    report = size(shared)
    assert all(n_bytes >= 0 for _, _, n_bytes in rows_of(report))
    figure = plot_bytes(report)
    assert sum(bar_widths(figure).values()) == pytest.approx(report.total)
    assert figure.axes[0].get_title(loc="left") == f"{report.total:,} bytes"


def test_rows_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="no bytes"):
        plot_bytes([])
    with pytest.raises(InputError, match="-1 bytes of indices"):
        plot_bytes([("a", "indices", -1)])
    with pytest.raises(InputError, match="at least 1"):
        plot_bytes([("a", "indices", 1)], largest=0)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PNG"])
def test_equal_input_gives_equal_bytes(make_study, tmp_path, suffix):
    study = make_study(POINTS)
    files = [tmp_path / f"{i}{suffix}" for i in range(3)]
    figure = plot_front([study])
    save(figure, files[0])
    save(figure, files[1])
    save(plot_front([study]), files[2])
    first, again, rebuilt = (file.read_bytes() for file in files)
    assert first == again == rebuilt
    save(plot_front([study], max_drop=0.2), files[1])
    assert files[1].read_bytes() != first


def test_the_suffix_chooses_the_format(tmp_path):
    figure = plot_bytes([("a", "indices", 1)])
    save(figure, tmp_path / "a.png")
    save(figure, tmp_path / "a.svg")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(tmp_path / "a.svg").getroot().tag.endswith("svg")
    assert b"<dc:date>" not in (tmp_path / "a.svg").read_bytes()


def test_another_suffix_is_refused_and_the_existing_file_kept(tmp_path):
    path = tmp_path / "front.pdf"
    path.write_text("mine")
    with pytest.raises(InputError, match=r"'front.pdf'.*\.png or \.svg"):
        save(plot_bytes([("a", "indices", 1)]), path)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_an_export_error(tmp_path):
    with pytest.raises(ExportError):
        save(plot_bytes([("a", "indices", 1)]), tmp_path / "missing" / "a.png")


@pytest.mark.parametrize("width", [3.3, 6.8])
def test_no_text_leaves_the_figure_nor_covers_the_data(make_study, width):
    figure = plot_front([make_study(POINTS)], chosen=3, width=width)
    figure.draw_without_rendering()
    inside = figure.bbox.padded(1)
    boxes = [figure.axes[0].get_tightbbox(), figure.legends[0].get_window_extent()]
    for box in boxes:
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert inside.y0 <= box.y0
        assert box.y1 <= inside.y1
    assert not boxes[0].overlaps(boxes[1])
    assert figure.get_figwidth() == width


def test_a_width_that_is_no_width_is_refused():
    shared, state = network([0, 1], [0, 1])
    with pytest.raises(InputError, match="positive width"):
        plot_codebook(shared, state, width=0)


def test_drawing_leaves_the_callers_style_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    save(plot_bytes([("a", "indices", 1)]), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


def test_drawing_does_not_load_pyplot(tmp_path):
    code = f"""
import sys
from moeash.exports.plots import plot_bytes, save
save(plot_bytes([("a", "indices", 1)]), {str(tmp_path / "a.png")!r})
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_ticks_are_round_apart_and_inside():
    def place(value):
        return (value - 7.8) / 1.0

    ticks = nice_ticks(7.8, 8.8, place, gap=0.2)
    assert 8.0 in ticks
    assert len(ticks) >= 3
    assert min(np.diff(ticks)) >= 0.2 - 1e-9
    assert 7.8 <= ticks[0] <= ticks[-1] <= 8.8
