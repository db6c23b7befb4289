"""What others have written reaches a terminal as what it is: text."""

import functools
import io
import json
import shutil
import sqlite3
import sys
import unicodedata

import numpy as np
import pytest

from moeash.codec.container import write
from moeash.console.progress import LiveProgress, PlainProgress
from moeash.core.codebook import Codebook, SharedTensor, SharedWeights
from moeash.escaping import visible
from moeash.study.events import Doing, Note, PhaseStarted

EVIL = "a\n\x1b[2K\x1b]0;t\x07\r\u202eb\u2066\u200b\x9b31m\x85\u2028c"


@functools.cache
def obeyed():
    """Every character that a terminal may obey: a million are looked at, so only where asked."""
    kinds = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return [c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in kinds]


def safe(text, keep="\n"):
    """Tell whether a terminal would only show a text."""
    return not any(c in text for c in obeyed() if c not in keep)


def test_no_character_that_a_terminal_obeys_is_left():
    assert len(obeyed()) > 200
    for c in obeyed():
        assert visible(f"a{c}b") not in (f"a{c}b", "ab") and safe(visible(c), keep="")


@pytest.mark.parametrize("text", ["", "plain text", "ключ 鍵 🔑 ±µ é", "C:\\x"])
def test_what_is_only_seen_stays_as_it_is(text):
    assert visible(text) == text


def test_lines_are_kept_where_they_are_asked_for():
    assert visible("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@pytest.fixture
def evil_file(tmp_path):
    """A file whose names and notes would like to be lines of somebody else's."""
    indices = np.arange(8).astype(np.uint8)
    counts = np.bincount(indices, minlength=8)
    tensor = SharedTensor(f"w{EVIL}", (8,), "float32", 0, indices, counts)
    shared = SharedWeights((Codebook(np.arange(8, dtype=np.float32)),), (tensor,))
    notes = {"good.moeash": "12 B, intact; fingerprint 0", f"k{EVIL}": f"x\ngood.moeash: 1 B{EVIL}"}
    path = tmp_path / "evil.moeash"
    write(path, shared, notes=notes)
    return path


def test_inspect_shows_names_and_notes_as_text_and_never_as_a_verdict(moeash, evil_file):
    answer = moeash("inspect", evil_file)
    assert answer.code == 0 and safe(answer.out)
    assert not [line for line in answer.out.splitlines() if line.startswith("good.moeash")]
    assert "note good.moeash: 12 B, intact" in answer.out
    document = moeash("inspect", evil_file, "--json")
    assert document.json["notes"][f"k{EVIL}"].startswith("x\ngood")
    assert document.json["tensors"][0]["name"] == f"w{EVIL}"


def test_a_table_on_a_terminal_is_as_safe(moeash, evil_file, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    answer = moeash("inspect", evil_file)
    assert answer.code == 0 and safe(answer.out)
    assert "\\x1b[2K" in answer.out.replace("\n", "").replace(" ", "") or "\\x1b" in answer.out


def test_a_database_is_shown_as_text(moeash, tiny, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copy(tiny.storage, copy)
    text = json.dumps({"text": EVIL})
    with sqlite3.connect(copy) as database:
        database.execute(
            "UPDATE studies SET name = ?, metric_name = ?, status = 'failed', reason = ?, ending=?",
            (EVIL, EVIL, EVIL, EVIL),
        )
        database.execute("UPDATE evaluations SET status='failed', error=? WHERE number=2", (EVIL,))
        database.execute(
            "INSERT INTO events (study_id, created_at, kind, payload) VALUES (1, ?, 'note', ?)",
            (EVIL, text),
        )
    database.close()
    for command in (["list"], ["status", EVIL], ["front", EVIL], ["front", f"{EVIL}x"]):
        answer = moeash(*command, "--storage", copy)
        assert answer.code == (2 if command[-1] == f"{EVIL}x" else 0), answer.err
        assert safe(answer.out) and safe(answer.err)
    assert moeash("list", "--storage", copy, "--json").json[0]["name"] == EVIL
    assert moeash("status", EVIL, "--storage", copy, "--json").json["reason"] == EVIL


@pytest.mark.parametrize(
    "arguments",
    [
        ["front", EVIL],
        ["verify", f"{EVIL}.moeash"],
        ["run", f"{EVIL}.toml"],
        ["export", EVIL, "--to", EVIL],
        [EVIL],
        ["list", "--storage", f"{EVIL}://x"],
        ["run", "x.toml", "--set", f"name={EVIL}"],
        ["run", "x.toml", "--set", f"{EVIL}=1"],
        ["--debug", "run", f"{EVIL}.toml"],
    ],
    ids=repr,
)
def test_errors_quote_what_was_given_as_text(moeash, tiny, tmp_path, arguments):
    shutil.copy(tiny.spec, tmp_path / "x.toml")
    answer = moeash(*arguments)
    assert answer.code in (1, 2)
    assert safe(answer.err) and answer.out == ""


def test_a_users_code_fails_in_text(moeash, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "failing_in_escapes.py").write_text(
        f"import warnings\ndef make(): raise RuntimeError({EVIL!r})\n"
    )
    (tmp_path / "x.toml").write_text(
        'name = "x"\nnetwork.source = "failing_in_escapes:make"\n'
        'data = {source = "digits", splits = {search = {part = "all", range = [0, 20]}}}\n'
    )
    answer = moeash("run", "x.toml")
    assert answer.code == 2 and safe(answer.err) and "RuntimeError" in answer.err


EVENTS = [Note(EVIL), Doing(EVIL, 1, 2), PhaseStarted("refine", 3), Doing(f"x{EVIL}", 1, 3)]


def test_progress_in_a_log_is_text():
    stream = io.StringIO()
    display = PlainProgress(stream)
    for event in EVENTS:
        display(event)
    assert safe(stream.getvalue()) and "\\x1b[2K" in stream.getvalue()


def test_progress_on_a_terminal_is_text_and_no_markup(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    display = LiveProgress()
    for event in [*EVENTS, Note("[red]no markup[/red] :warning:"), Doing("[bold]x[/bold]", 0, 1)]:
        display(event)
    display.close()
    err = capsys.readouterr().err
    assert safe(err)
    assert "[red]no markup[/red] :warning:" in err


def test_a_warning_is_one_line_of_text(moeash, monkeypatch):
    import warnings

    from moeash.study import opening

    def warn(*arguments, **options):
        warnings.warn(EVIL, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr(opening, "open_storage", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings,
            "showwarning",
            lambda m, c, f, n, *_: sys.stderr.write(warnings.formatwarning(m, c, f, n)),
        )
        answer = moeash("list")
    assert answer.err.startswith("warning: a \\x1b[2K") and safe(answer.err)
    assert answer.err.count("\n") == 2
