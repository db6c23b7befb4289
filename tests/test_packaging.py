"""What is installed holds the files themselves that the checkout has links to."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="setuptools 77 builds the package")

ROOT = Path(__file__).parents[1]
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, links as links, whose kernels are not compiled."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("moeash", "dashboards", "studies"):
        shutil.copytree(
            ROOT / name,
            folder / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.c", "results", "comparison"),
        )
    shutil.copy(ROOT / "README.md", folder)
    text = (ROOT / "pyproject.toml").read_text()
    text, n = re.subn(r"\[\[tool\.setuptools\.ext-modules\]\]\n(?:.+\n)+", "", text)
    assert n == len(list((ROOT / "moeash").rglob("*.pyx")))
    (folder / "pyproject.toml").write_text(text)
    return folder


def build(kind, source, target):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BUILD, kind, str(target)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


def files_of_the_service():
    """Files below the links, as an installation has them."""
    package = ROOT / "moeash"
    for link in [path for path in package.rglob("*") if path.is_symlink()]:
        place = link.relative_to(ROOT)
        if link.is_dir():
            for path in link.resolve().rglob("*"):
                if path.is_file():
                    yield (place / path.relative_to(link.resolve())).as_posix(), path
        else:
            yield place.as_posix(), link


def check(read, names):
    expected = dict(files_of_the_service())
    assert {"moeash/service/web/index.html", "moeash/service/shipped/digits.toml"} <= set(expected)
    assert set(expected) <= set(names)
    for name, path in expected.items():
        assert read(name) == path.read_bytes(), name


@pytest.mark.slow
def test_a_wheel_holds_the_page_and_the_shipped_studies(source, tmp_path):
    with zipfile.ZipFile(build("wheel", source, tmp_path)) as wheel:
        check(wheel.read, wheel.namelist())


@pytest.mark.slow
def test_a_source_distribution_holds_files_and_no_links(source, tmp_path):
    with tarfile.open(build("sdist", source, tmp_path)) as archive:
        members = archive.getmembers()
        assert not [m.name for m in members if m.issym() or m.islnk()]
        root = members[0].name.partition("/")[0]
        names = [m.name.removeprefix(f"{root}/") for m in members]
        check(lambda name: archive.extractfile(f"{root}/{name}").read(), names)
