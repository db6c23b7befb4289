import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from moeash.errors import ExportError, InputError
from moeash.exports.plots import plot_bytes, plot_front, save
from moeash.exports.plots.canvas import nice_ticks
from tests.exports.pictures import POINTS
from tests.marks import slow


@pytest.mark.parametrize("suffix", [slow(".png"), slow(".svg")])
def test_equal_input_gives_equal_bytes(make_study, tmp_path, suffix):
    study = make_study(POINTS)
    files = [tmp_path / f"{i}{suffix}" for i in range(3)]
    figure = plot_front([study])
    save(figure, files[0])
    save(figure, files[1])
    save(plot_front([study]), files[2])
    first, again, rebuilt = (file.read_bytes() for file in files)
    assert first == again == rebuilt
    save(plot_front([study], chosen=1), files[1])
    assert files[1].read_bytes() != first


def test_the_suffix_chooses_the_format(tmp_path):
    figure = plot_bytes([("a", "indices", 1)])
    save(figure, tmp_path / "a.png")
    save(figure, tmp_path / "a.svg")
    save(figure, tmp_path / "b.PNG")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.PNG").read_bytes()
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


def test_drawing_leaves_the_callers_style_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    save(plot_bytes([("a", "indices", 1)]), tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("low", "high", "among"),
    [(24.41, 24.57, 24.5), (10.812, 10.8155, 10.813), (99.93, 100.04, 100)],
)
def test_an_axis_shorter_than_a_step_of_two_digits_has_ticks(low, high, among):
    ticks = nice_ticks(low, high, lambda value: (value - low) / (high - low), gap=0.1)
    assert len(ticks) >= 2 and low <= ticks[0] <= ticks[-1] <= high
    assert min(abs(tick - among) for tick in ticks) < 1e-9
    assert min(np.diff(ticks)) >= 0.1 * (high - low) - 1e-9


@pytest.mark.slow
def test_a_matplotlibrc_of_others_changes_nothing_and_runs_no_latex(tmp_path):
    script = (
        "import sys, matplotlib\n"
        "from moeash.exports.plots.canvas import STYLE, new_figure, save\n"
        "with matplotlib.rc_context(STYLE):\n"
        "    figure, axes = new_figure(2)\n"
        "    axes.plot([1, 2], label='a')\n"
        "    axes.set_title('text')\n"
        "save(figure, sys.argv[1])\n"
    )
    drawn = []
    for name, style in (("with", "text.usetex: True\nlines.linewidth: 9\n"), ("without", "")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "matplotlibrc").write_text(style)
        command = [sys.executable, "-P", "-c", script, "x.svg"]
        subprocess.run(command, cwd=folder, check=True, timeout=120)
        drawn.append((folder / "x.svg").read_bytes())
    assert drawn[0] == drawn[1]
