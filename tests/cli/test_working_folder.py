"""What lies where a person stands is not run, unless a spec names it, and shadows nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moeash.backends.worker import Folder

ROOT = Path(__file__).parents[2]

SHADOWS = ("numpy", "torch", "scipy", "sqlalchemy", "csv", "zipfile", "tomllib")

SPEC = """
name = "x"
network.source = "digits-cnn"
data = {source = "digits", splits = {search = {part = "all", range = [0, 20]}}}
evaluation = {metric = "mine:score", threads = 1}
method.k = [3, 4]
search.algorithm = "exhaustive"
merge.trials = 0
"""


@pytest.fixture
def folder(tmp_path):
    """A folder in which somebody has left modules that tell when they are run."""
    here = tmp_path / "downloads"
    here.mkdir()
    for name in SHADOWS:
        (here / f"{name}.py").write_text("open('RAN', 'a').write(__name__)\n")
    (here / "mine.py").write_text(
        "def score(outputs, labels):\n    return (outputs.argmax(1) == labels).float()\n"
    )
    (here / "x.toml").write_text(SPEC)
    return here


@pytest.fixture
def script(tmp_path):
    """What an installed ``moeash`` is."""
    path = tmp_path / "bin" / "moeash"
    path.parent.mkdir()
    path.write_text("from moeash.cli.main import main\nmain()\n")
    return [sys.executable, str(path)]


def ran(command, folder, **environment):
    answer = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOEASH_STORAGE": "a.db", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert not (folder / "RAN").exists(), (folder / "RAN").read_text()
    return answer


@pytest.mark.slow
def test_commands_run_nothing_that_lies_beside_what_they_look_at(folder, script, tiny):
    assert ran([*script, "verify", tiny.file], folder).returncode == 0
    assert ran([*script, "doctor"], folder).returncode == 0


def test_python_m_is_as_safe_once_the_command_has_begun(folder, tiny):
    for name in ("csv", "zipfile", "tomllib"):  # Python reads its own before there is a command
        (folder / f"{name}.py").unlink()
    command = [sys.executable, "-m", "moeash", "verify", tiny.file]
    assert ran(command, folder).returncode == 0


@pytest.mark.slow
def test_code_that_a_spec_names_is_found_there_after_everything_installed(folder, script):
    answer = ran([*script, "run", "x.toml"], folder)
    assert answer.returncode == 0, answer.stderr
    assert "mine:score" in answer.stdout
    answer = ran([*script, "export", "x", "--to", "x.moeash", "--spec", "x.toml"], folder)
    assert answer.returncode == 0, answer.stderr


def test_a_spec_without_code_leaves_the_search_path_alone(moeash, bare):
    before = list(sys.path)
    assert moeash("run", bare, "--set", "method.k=[6, 7]", "--storage", "a.db").code == 0
    assert sys.path == before


@pytest.mark.parametrize(
    "path, place",
    [
        (["", "/lib"], "first"),
        (["{here}", "/lib"], "first"),
        (["/lib", "{here}"], "last"),
        (["/lib", "{here}", "/more"], "last"),
        (["/lib"], "never"),
    ],
)
def test_a_worker_looks_where_its_driver_does(monkeypatch, tmp_path, path, place):
    monkeypatch.chdir(tmp_path)
    library = str(Path(os.__file__).parent)
    names = {"/lib": library, "{here}": str(tmp_path)}
    driver = [names.get(entry, entry) for entry in path]
    monkeypatch.setattr(sys, "path", driver)
    folder = Folder.here()
    assert folder == Folder(str(tmp_path), place)
    # Ray puts the driver's working folder in front of all others.
    monkeypatch.setattr(sys, "path", [str(tmp_path), library, "/more"])
    folder.rearrange()
    assert (
        sys.path
        == {
            "first": [str(tmp_path), library, "/more"],
            "last": [library, "/more", str(tmp_path)],
            "never": [library, "/more"],
        }[place]
    )
