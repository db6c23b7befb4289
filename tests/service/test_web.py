"""The page's files: all there, and nothing in them that its policy would have to allow."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from moeash.service.web import web_folder

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "dashboards/web").rglob("*") if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
TEXTS = {path: path.read_text("utf-8") for path in SCRIPTS}

FORBIDDEN = {
    "markup from text": r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser",
    "code from text": r"\beval\(|new Function\(|setTimeout\(['\"]",
    "style attributes": r"setAttribute\(['\"]style|cssText",
    "other servers": r"(?:fetch|import|src=|href=)\(?['\"](?:https?:)?//",
}


def test_the_folder_served_is_that_of_the_repository():
    assert web_folder() == ROOT / "dashboards/web"


def test_every_import_of_a_script_exists():
    imported = [
        path.parent / name
        for path, text in TEXTS.items()
        for name in re.findall(r"(?:from|import\()\s*'(\.[^']+)'", text)
    ]
    assert len(imported) > len(SCRIPTS)
    assert not [place for place in imported if not place.resolve().is_file()]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_script_needs_a_weaker_policy(what):
    assert not [path for path, text in TEXTS.items() if re.search(FORBIDDEN[what], text)]


def test_the_document_has_no_inline_script_style_or_handler():
    text = (ROOT / "dashboards/web/index.html").read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for target in re.findall(r"(?:src|href)=\"([^\"#]+)\"", text):
        assert target.startswith("/static/"), target
        assert (ROOT / "dashboards/web" / target.removeprefix("/static/")).is_file(), target


def test_no_style_sheet_asks_for_a_file():
    for path in FILES:
        if path.suffix == ".css":
            assert not re.search(r"url\(|@import", path.read_text("utf-8")), path.name


TOKENS = (ROOT / "dashboards/web/style/tokens.css").read_text("utf-8")


def test_every_colour_is_said_once_for_light_and_for_dark():
    colours = re.findall(r"^ *(--[\w-]+): (.*#.*);$", TOKENS, re.M)
    assert len(colours) > 20
    assert len({name for name, _ in colours}) == len(colours)
    both = re.compile(r"light-dark\(#[0-9a-f]+, #[0-9a-f]+\)")
    assert not [name for name, value in colours if not both.fullmatch(value)]


def test_every_colour_that_a_canvas_asks_for_is_known_as_a_colour():
    """Of others a script would get the text of both."""
    texts = {path.name: text for path, text in TEXTS.items()}
    series = re.search(r"SERIES_COLOURS = .*", texts["front-chart.js"])[0]
    stages = re.search(r"STAGES = .*", texts["marks.js"])[0]
    asked = {"--ground", "--stopped", *re.findall(r"'(--[\w-]+)'", series)}
    asked |= {f"--{stage}" for stage in re.findall(r"'(\w+)'", stages)}
    assert asked - set(re.findall(r"@property (--[\w-]+) { syntax: \"<color>\"", TOKENS)) == set()


def imports_of(path):
    found = re.findall(r"^import .*?from '(\.[^']+)'", path.read_text("utf-8"), re.M)
    return {(path.parent / name).resolve() for name in found}


def test_what_a_first_page_needs_is_loaded_ahead():
    web = (ROOT / "dashboards/web").resolve()
    needed, new = set(), {web / "app.js", web / "pages/study.js", web / "pages/studies.js"}
    while new:
        needed |= new
        new = set().union(*map(imports_of, new)) - needed
    text = (web / "index.html").read_text("utf-8")
    names = re.findall(r'(?:modulepreload" href|src)="/static/(\S+)"', text)
    assert needed - {web / name for name in names} == set()


def test_no_script_is_longer_than_a_python_module_may_be():
    assert not [path for path, text in TEXTS.items() if len(text.splitlines()) > 400]


def test_a_wheel_would_hold_every_file_of_the_page(tmp_path):
    code = "from setuptools import setup; setup()"
    target = tmp_path / "lib"
    # An old list of sources in the checkout would have files packed that nothing asks for now.
    listed = ["egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(
        [sys.executable, "-c", code, "-q", *listed, "build_py", "--build-lib", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for path in FILES:
        packed = target / "moeash/service/web" / path.relative_to(ROOT / "dashboards/web")
        assert packed.read_bytes() == path.read_bytes(), path
        assert not packed.is_symlink()
