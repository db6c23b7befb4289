"""README and the page of keys are checked: what they must mention is read from the code."""

import re
import tomllib
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from moeash.cli.main import app
from moeash.data.sources import SOURCES
from moeash.evaluation.metrics import METRICS
from moeash.methods.options import OPTIONS
from moeash.networks.loading.builtin import BUILTIN
from moeash.study.spec.reference import describe_spec

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SPEC = (ROOT / ".github" / "SPEC.md").read_text()
COMMANDS = [command.name for command in app.registered_commands]
COMMANDS += [group.typer_instance.info.name for group in app.registered_groups]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert f"`moeash {command}" in README


def test_every_command_the_readme_shows_exists():
    shown = set(re.findall(r"`moeash ([a-z]+)|/moeash ([a-z]+) ", README))
    assert {name for pair in shown for name in pair if name} <= set(COMMANDS)


@pytest.mark.parametrize("name", [*OPTIONS, *METRICS, *SOURCES, *BUILTIN])
def test_every_name_a_spec_may_say_is_on_the_page_of_keys(name):
    assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", SPEC)


def test_the_page_of_keys_is_what_moeash_spec_prints():
    table = re.search(r"<!-- moeash spec -->\n(.*?)<!-- end -->", SPEC, re.DOTALL)
    assert table is not None
    assert table[1].strip() == describe_spec().strip(), "paste the output of `moeash spec`"


def test_the_readmes_picture_of_the_layers_is_the_tested_one():
    # --import-mode=importlib gives tests no common package to import this from.
    spec = spec_from_file_location("layers", Path(__file__).with_name("test_layers.py"))
    layers = module_from_spec(spec)
    spec.loader.exec_module(layers)
    names = set().union(*layers.LAYERS)
    picture = re.search(r"```\n(cli .*?)```", README, re.DOTALL)
    assert picture is not None
    drawn = [set(re.split(r"\s{2,}", line)) & names for line in picture[1].splitlines()]
    assert drawn == layers.LAYERS[::-1]


def test_the_readmes_two_commands_are_the_promised_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "test" in project["optional-dependencies"]
    assert project["scripts"]["moeash"] == "moeash.cli.main:main"
    install = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && "
    for command in (".venv/bin/moeash run studies/digits.toml", ".venv/bin/pytest"):
        assert f"\n    {install}{command}\n" in README
    assert (ROOT / "studies" / "digits.toml").exists()


def test_every_file_the_readme_points_to_exists():
    pointed = re.findall(r"(?<!!)\[[^]]*\]\(([\w./-]+)\)", README)
    pointed += re.findall(r"`((?:moeash|tests|studies)/[\w./-]+)`", README)
    assert pointed
    for path in pointed:
        assert (ROOT / path).exists(), path


def test_every_place_that_needs_a_dependency_exists():
    comments = re.findall(
        r'^    ".*",\s+#(.*)$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    named = [
        place
        for comment in comments
        for place in re.findall(r"(?<![.\w])[a-z_]+/[\w./*]*", comment)
    ]
    assert len(named) > 10
    for place in named:
        root = ROOT if place.startswith("tests/") else ROOT / "moeash"
        assert any(root.glob(place.rstrip("/:"))), place


def test_every_kernel_is_built_installed_with_its_types_and_run_under_sanitizers():
    contributing = (ROOT / ".github/CONTRIBUTING.md").read_text()
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    modules = {module["name"]: module["sources"] for module in setup["ext-modules"]}
    command = contributing[contributing.index("for kernel in $(find moeash -name '*.pyx')") :]
    folders = re.findall(r"tests/\S+", command[: command.index("## ")])
    kernels = sorted(path.relative_to(ROOT) for path in (ROOT / "moeash").rglob("*.pyx"))
    assert len(kernels) == len(modules)
    for path in kernels:
        inside = path.relative_to("moeash").with_suffix("")
        assert modules[".".join(path.with_suffix("").parts)] == [path.as_posix()]
        assert f"{inside.parent}/*.pyi" in setup["package-data"]["moeash"]
        assert path.with_suffix(".pyi").exists()
        assert f"`{inside}`" in contributing
        assert f"tests/{inside.parent}" in folders
