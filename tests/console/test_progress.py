import io
import re
import sys

import pytest

from moeash import api
from moeash.console.progress import Best, LiveProgress, PlainProgress, for_terminal
from moeash.study.opening import open_study
from moeash.study.spec.reading import load_spec


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(tiny, tmp_path, progress) -> None:
    spec = load_spec(tiny.spec, ["merge.trials=0"])
    progress.expect(generations=3, tolerable_drop=0.05)
    try:
        api.run(spec, storage=str(tmp_path / "moeash.db"), progress=progress)
    finally:
        progress.close()


@pytest.mark.parametrize("columns", [40, 200])
def test_a_terminal_sees_a_bar_that_keeps_to_its_width(monkeypatch, tiny, tmp_path, columns):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("NO_COLOR", "1")
    progress = for_terminal()
    assert isinstance(progress, LiveProgress)
    shown(tiny, tmp_path, progress)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "loading" in text and "best " in text
    assert "search ended" in text.replace("\n", " ")
    assert max(map(len, re.split(r"[\r\n]", text))) <= columns
    assert not re.search(r"\x1b\[3\dm", terminal.getvalue()), "NO_COLOR was set"


def test_elsewhere_every_generation_is_one_plain_line(tiny, tmp_path):
    stream = io.StringIO()
    shown(tiny, tmp_path, PlainProgress(stream))
    first, *generations, last = stream.getvalue().splitlines()
    assert "54,864 weights shared, 300 kept" in first
    assert [line.split(":")[0] for line in generations] == [
        f"generation {n}" for n in range(1, len(generations) + 1)
    ]
    assert last.startswith("search ended: ")
    assert "\x1b" not in stream.getvalue()


def test_the_best_so_far_is_what_would_be_picked(tiny):
    study = open_study("tiny", tiny.storage)
    best = Best(0.0)
    assert str(best) == "nothing within a drop of 0 yet"
    best.start(study.facts)
    for record in study.evaluations():
        best.see(record)
    picked = study.pick("smallest", max_drop=0.0)
    assert str(best).startswith(f"best {picked.size_bytes:,} B (ratio {picked.ratio:.1f}) at drop")
