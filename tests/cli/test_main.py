import pytest

from moeash.cli import main as command_line
from moeash.errors import MoeashError


def test_without_a_command_the_help_is_shown_and_the_usage_was_bad(moeash):
    answer = moeash()
    assert answer.code == 2
    assert "Usage: moeash" in answer.out


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_no_failure(moeash, flag):
    assert moeash(flag).code == 0
    assert moeash("export", flag).code == 0


def test_the_version_is_the_packages(moeash):
    import moeash as package

    assert moeash("--version").out == f"moeash {package.__version__}\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run"], "missing argument 'SPEC' (see moeash run --help)"),
        (["frobnicate"], "no such command 'frobnicate'"),
        (["front", "x", "--nope"], "no such option: --nope (see moeash front --help)"),
        (["export", "x"], "missing option '--to' (see moeash export --help)"),
        (["export", "x", "--to", "y", "--pick", "foo"], "'foo' is not one of 'smallest', 'knee'"),
        (["export", "x", "--to", "y", "--max-drop", "a"], "invalid value for '--max-drop'"),
        (["export", "x", "--to", "y", "--id", "1", "--pick", "knee"], "--id names one solution"),
        (["plot", "a", "b", "--to", "p.png", "--kind", "bytes"], "--kind bytes draws one study"),
        (["run", "nope.toml"], "cannot read 'nope.toml' (from "),
        (["front", "x"], "moeash.db; run a study first"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(moeash, arguments, message):
    answer = moeash(*arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("moeash: ") and message in answer.err
    assert answer.err.count("\n") == 1


def test_debug_shows_where_an_error_came_from_anywhere_in_the_line(moeash):
    for arguments in (["--debug", "run", "nope.toml"], ["run", "nope.toml", "--debug"]):
        answer = moeash(*arguments)
        assert answer.code == 2
        assert "Traceback" in answer.err and "SpecError" in answer.err
        assert answer.err.splitlines()[-1].startswith("moeash: cannot read 'nope.toml'")


@pytest.mark.parametrize(
    "error, code, message",
    [
        (MoeashError("two\nlines"), 1, "moeash: two lines\n"),
        (RuntimeError("odd"), 1, "moeash: RuntimeError: odd (a bug? --debug shows where)\n"),
        (KeyboardInterrupt(), 130, "moeash: interrupted\n"),
    ],
)
def test_what_a_command_raises_decides_the_exit_code(moeash, monkeypatch, error, code, message):
    from moeash.study import opening

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(opening, "open_storage", fail)
    answer = moeash("list")
    assert (answer.code, answer.err) == (code, message)


def test_reading_commands_create_no_database(moeash, tmp_path):
    for command in (["list"], ["front", "x"], ["status", "x"], ["plot", "x", "--to", "x.png"]):
        assert moeash(*command).code == 2
    assert moeash("doctor").code == 0
    assert list(tmp_path.iterdir()) == []


def test_every_command_answers_in_json():
    app = command_line.app
    groups = [group.typer_instance for group in app.registered_groups]
    commands = [command for each in (app, *groups) for command in each.registered_commands]
    assert len(commands) > len(app.registered_commands)
    for command in commands:
        assert "json_" in command.callback.__annotations__, command.name
