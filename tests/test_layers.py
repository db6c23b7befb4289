"""Imports point down: the picture in the README, checked against every file."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "moeash"

LAYERS = [  # low to high; names on one line may not import one another
    {"errors"},
    {"files"},
    {"names"},
    {"escaping"},
    {"runtime"},
    {"options"},
    {"core"},
    {"codec"},
    {"networks", "data"},
    {"tracing"},
    {"methods"},
    {"compression"},
    {"evaluation"},
    {"searches"},
    {"backends"},
    {"study"},
    {"nn"},
    {"exports"},
    {"launch"},
    {"console"},
    {"api"},
    {"service"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
RANK["__main__"] = len(LAYERS)  # `python -m moeash`, which only calls the highest

MODULES, LINES = 14, 400  # of a folder, of a module
ALONE = {"codec/reference.py": 700}  # copied without moeash, so it cannot be divided

HOME = {  # third parties that must stay at home: module prefix -> where it may be imported
    "torch": (
        "networks",
        "data",
        "tracing",
        "methods",
        "compression",
        "evaluation",
        "backends",
        "study",
        "nn",
        "exports",
        "api",
    ),
    "torchvision": ("networks", "data"),
    "pymoo": ("searches",),
    "sqlalchemy": ("study/storage",),
    "alembic": ("study/storage",),
    "fastapi": ("service",),
    "starlette": ("service",),
    "uvicorn": ("service",),
    "pydantic": ("service",),
    "prometheus_client": ("service",),
    "matplotlib": ("exports",),
    "optuna": ("exports/interop/optuna_study",),
    "pandas": ("study", "exports", "api"),
    "constriction": (),
    "bitarray": ("codec",),
    "typer": ("cli",),
    "rich": ("cli", "console"),
    "sklearn": ("data",),
    "ray": ("backends/ray", "launch/ray_jobs"),
    "PIL": ("data",),
    "onnx": ("exports/formats/onnx",),
    "onnxruntime": ("exports/formats/onnx",),
    "onnxscript": ("exports/formats/onnx",),
}


def imports(path: Path) -> set[str]:
    """Return every dotted name that path imports, anywhere in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import out in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(ROOT.rglob("*.py"))


@pytest.fixture(scope="module")
def imported():
    """What every file imports, by its path in the package."""
    return {path.relative_to(ROOT): imports(path) for path in FILES}


def test_imports_point_down(imported):
    wrong = []
    for path, names in imported.items():
        here = path.parts[0].removesuffix(".py")
        for parts in (name.split(".") for name in names):
            if here == "__init__" or parts[0] != "moeash" or len(parts) < 2:
                continue
            if parts[1] in (here, "__version__"):
                continue
            if parts[1] not in RANK:
                wrong.append(f"{path}: moeash.{parts[1]} is not in the picture")
            elif RANK[parts[1]] >= RANK[here]:
                wrong.append(f"{path} ({here}) must not import moeash.{parts[1]}")
    assert len(imported) > 200 and not wrong, "\n".join(wrong)


def test_no_module_imports_one_that_imports_it(imported):
    def called(path):
        parts = ("moeash", *path.with_suffix("").parts)
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    modules = {called(path): names for path, names in imported.items()}
    del modules["moeash"]  # its names for type checkers are those of the whole package
    below = {
        module: {next((m for m in (n, n.rpartition(".")[0]) if m in modules), "") for n in names}
        for module, names in modules.items()
    }
    assert sum(map(len, below.values())) > 1000
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_third_parties_stay_at_home(imported):
    wrong = [
        f"{path.as_posix()} must not import {name}"
        for path, names in imported.items()
        for name in names
        if not path.as_posix().startswith(HOME.get(name.split(".")[0], ""))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_folder_is_crowded_and_no_module_long():
    folders = {path.parent for path in FILES}
    crowded = {f: n for f in folders if (n := len([*f.glob("*.py")]) - 1) > MODULES}
    kernels = [*ROOT.rglob("*.pyx"), *ROOT.rglob("*.pxd")]
    long = {
        p: n
        for p in [*FILES, *kernels]
        if (n := len(p.read_text().splitlines())) > ALONE.get(p.relative_to(ROOT).as_posix(), LINES)
    }
    assert not crowded and not long


def test_every_package_is_in_the_picture():
    found = {p.relative_to(ROOT).parts[0].removesuffix(".py") for p in FILES} - {"__init__"}
    assert found <= set(RANK)
