import numpy as np
import pytest
from matplotlib import cbook

from moeash.codec.size import size
from moeash.core.codebook import Codebook, Parameter, keep_all, share
from moeash.errors import InputError
from moeash.exports.plots import plot_bytes, plot_codebook, save
from moeash.exports.plots.weights import LARGEST, rows_of
from tests.exports.pictures import artist, legend


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
    figure = plot_codebook(shared, state)
    assert artist(figure, "entries").get_xydata().tolist() == [[0, 1], [1, 2]]
    assert legend(figure) == ["3 float weights", "2 entries"]


def test_weights_in_other_units_than_the_codebook_are_left_out_and_the_legend_says_so():
    shared, state = network([-8.0, 0.0, 1.0, 1.0], [-1.0, 0.0, 1.0])
    figure = plot_codebook(shared, None)
    assert artist(figure, "entries").get_xydata().tolist() == [[-1, 1], [0, 1], [1, 2]]
    assert "weights" not in [a.get_label() for a in figure.axes[0].get_children()]
    assert legend(figure) == ["4 float weights left out: they have other units", "3 entries"]
    assert figure.axes[0].get_xlabel() == "weight, rows and columns rescaled"
    assert figure.axes[0].get_xlim()[0] > -2  # the codebook's range, not that of the float weights
    assert artist(plot_codebook(shared, state), "weights").get_data().values.sum() == 4


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
    n = LARGEST + 3
    rows = [(f"t{i}", part, 10.0 * i) for i in range(1, n + 1) for part in ("indices", "table")]
    figure = plot_bytes([(None, "header", 500), *rows])
    widths = bar_widths(figure)
    assert list(widths) == [*(f"t{i}" for i in range(n, 3, -1)), "3 others", "header"]
    own = [20 * i for i in range(n, 3, -1)]
    assert list(widths.values()) == pytest.approx([*own, 120, 500])
    assert figure.axes[0].get_title(loc="left") == f"{sum(own) + 620:,} bytes"
    assert legend(figure) == ["indices", "table"]


def test_the_parts_of_a_bar_touch_and_do_not_overlap():
    sizes = {"indices": 30.0, "table": 20.0, "kept": 10.0}
    figure = plot_bytes([("t", part, n_bytes) for part, n_bytes in sizes.items()])
    spans = [(1e3 * p.get_x(), 1e3 * (p.get_x() + p.get_width())) for p in figure.axes[0].patches]
    np.testing.assert_allclose(spans, [(0, 30), (30, 50), (50, 60)])


def test_a_single_tensor_beyond_the_largest_keeps_its_name():
    names = [f"t{i}" for i in range(LARGEST + 1)]
    assert list(bar_widths(plot_bytes([(name, "indices", 1) for name in names]))) == names


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


@pytest.mark.parametrize("name", [r"$\frac{$", "$x$", "a$", r"\$y$", "$_{"])
def test_a_tensor_is_called_what_it_is_called_and_no_formula(name, tmp_path):
    weights = np.asarray([0, 1], np.float32)
    state = (Parameter(name, (2,), "float32", "shared", weights),)
    indices, counts = np.asarray([0, 1], np.uint8), np.ones(2, np.int64)
    shared = share(state, [Codebook(weights)], {name: (0, indices, counts)}, keep_all(state))
    figure = plot_bytes(size(shared))
    save(figure, tmp_path / "bytes.png")  # where a formula is read
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert name in [label.replace(r"\$", "$") for label in labels]
    assert all(not cbook.is_math_text(label) for label in labels)
