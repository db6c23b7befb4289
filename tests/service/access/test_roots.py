import json
import os
import textwrap

import pytest

from moeash.errors import InputError, SpecError
from moeash.service.access.roots import Roots
from moeash.service.problems import faults_of
from moeash.study.spec.reading import spec_of_text


def toml(**changes):
    """A spec's text; changes are values by place, double underscores for dots."""
    tables = {
        "network": {"source": "digits-cnn"},
        "data": {"source": "digits", "splits": {"search": {"part": "all"}}},
    }
    top = {"name": "a"}
    for place, value in changes.items():
        *path, key = place.split("__")
        here = tables if path else top
        for part in path:
            here = here.setdefault(part, {})
        here[key] = value
    import tomli_w

    return tomli_w.dumps(top | tables)


@pytest.fixture
def places(tmp_path):
    """A root with a file, a file outside, and the service's folder."""
    for name in ("root/in", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/in/w.safetensors").write_bytes(b"x")
    (tmp_path / "out/w.safetensors").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def roots(places):
    return Roots(places / "own", roots=[places / "root"])


def faults(roots, **changes):
    with pytest.raises(SpecError) as caught:
        roots.admit(toml(**changes))
    return {fault.path: fault.text for fault in faults_of(caught.value)}


# ---------------------------------------------------------------------- code


def test_what_is_built_in_may_be_named(roots):
    spec = roots.admit(toml(evaluation__metric="macro_f1"))
    assert spec == spec_of_text(toml(evaluation__metric="macro_f1"))
    assert roots.admit(toml(network__source="torchvision:resnet18", network__weights="random"))


@pytest.mark.parametrize("place", ["network.source", "data.source", "evaluation.metric"])
@pytest.mark.parametrize(
    "reference",
    ["os:system", "subprocess:Popen", "shutil:rmtree", "builtins:eval", "mine.sub:make", "minex:f"],
)
def test_code_of_modules_that_are_not_allowed_is_refused(places, place, reference):
    roots = Roots(places / "own", allow_modules=["mine.sub2", "mine.su", "min"])
    found = faults(roots, **{place.replace(".", "__"): reference})
    assert list(found) == [place] and "--allow-module" in found[place]


@pytest.fixture
def mine(places, monkeypatch):
    """A package of a user's, which must not be imported by checking."""
    package = places / "lib" / "mine_pkg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "nets.py").write_text(
        textwrap.dedent(
            """
            import os
            from os import system
            from subprocess import Popen as Net

            raise RuntimeError("imported")

            def make(): ...

            class Made:
                def inside(self): ...

            def outer():
                def inner(): ...

            alias = make
            """
        )
    )
    monkeypatch.syspath_prepend(places / "lib")


@pytest.mark.parametrize("allowed", ["mine_pkg", "mine_pkg.nets"])
def test_functions_that_an_allowed_module_defines_may_be_named(places, mine, allowed):
    roots = Roots(places / "own", allow_modules=[allowed])
    for name in ("make", "Made"):
        assert roots.admit(toml(network__source=f"mine_pkg.nets:{name}"))


@pytest.mark.parametrize(
    "function",
    ["os.system", "system", "Net", "Made.inside", "inner", "alias", "missing", "__builtins__"],
)
def test_what_an_allowed_module_only_imports_is_not_allowed_with_it(places, mine, function):
    roots = Roots(places / "own", allow_modules=["mine_pkg"])
    found = faults(roots, network__source=f"mine_pkg.nets:{function}")
    assert "defines no function" in found["network.source"]
    exact = Roots(places / "own", allow_modules=[f"mine_pkg.nets:{function}"])
    assert exact.admit(toml(network__source=f"mine_pkg.nets:{function}"))


@pytest.mark.parametrize("reference", ["a:b:c", "a b:c", ":c", "a:", "../x:y", "mine_pkg.nets:"])
def test_what_is_no_reference_is_refused(places, mine, reference):
    roots = Roots(places / "own", allow_modules=["a", "mine_pkg", ""])
    assert list(faults(roots, data__source=reference)) == ["data.source"]


def test_a_module_given_in_python_cannot_be_named(roots):
    assert faults(roots, network__source="python:Net")


# ---------------------------------------------------------------------- files


def test_a_path_inside_a_root_is_passed_on_without_links(roots, places):
    (places / "root/link").symlink_to(places / "root/in")
    given = toml(network__checkpoint=f"{places}/root/link/../in/w.safetensors")
    inside = str((places / "root/in/w.safetensors").resolve())
    spec = roots.admit(given)
    assert spec.network.checkpoint == inside
    assert spec_of_text(given, roots.settings(spec)) == spec


def test_a_relative_path_is_one_of_the_uploads_or_else_of_a_root(roots, places):
    relative = toml(network__checkpoint="in/w.safetensors", data__root="in")
    spec = roots.admit(relative)
    assert spec.network.checkpoint == str((places / "root/in/w.safetensors").resolve())
    assert spec.data.root == str((places / "root/in").resolve())
    (roots.uploads / "in").mkdir()
    (roots.uploads / "in/w.safetensors").write_bytes(b"")
    assert roots.admit(relative).network.checkpoint == str(roots.uploads / "in/w.safetensors")


BEGINS = {"method__name": "wfn", "data__splits__train__part": "all"}


def test_a_method_may_begin_with_a_file_of_a_root(roots, places):
    spec = roots.admit(toml(method__start="in/w.safetensors", **BEGINS))
    inside = str((places / "root/in/w.safetensors").resolve())
    assert spec.start == inside
    assert f"method.start={json.dumps(inside)}" in roots.settings(spec)


@pytest.mark.parametrize("place", ["network.checkpoint", "data.root", "method.start"])
@pytest.mark.parametrize(
    "path",
    [
        "{0}/out/w.safetensors",
        "{0}/root/../out/w.safetensors",
        "{0}/root/in/../../out",
        "../out/w.safetensors",
        "../../out",
        "..",
        "/etc/passwd",
        "/",
        "/proc/self/environ",
        "{0}/rooted",
        "{0}/root/missing",
        "{0}/root/leads_out",
        "{0}/root/leads_out/w.safetensors",
        "{0}/root/file_out",
        "{0}/root/loop",
        "{0}/root/pipe",
        "~/x",
        "a\0b",
        "x" * 5000,
        "file:///etc/passwd",
        "{0}/own/output",
    ],
)
def test_whatever_leads_outside_is_refused_and_not_told_from_what_is_not_there(
    roots, places, place, path
):
    (places / "root/leads_out").symlink_to(places / "out")
    (places / "root/file_out").symlink_to(places / "out/w.safetensors")
    (places / "root/loop").symlink_to(places / "root/loop")
    (places / "rooted").mkdir()
    os.mkfifo(places / "root/pipe")
    found = faults(roots, **BEGINS, **{place.replace(".", "__"): path.format(places)})
    assert list(found) == [place]
    assert "is not in a folder that this service may read" in found[place]


def test_a_folder_is_no_checkpoint(roots):
    assert faults(roots, network__checkpoint="in") == {
        "network.checkpoint": "network.checkpoint: 'in' is a folder"
    }


def test_a_study_writes_below_the_services_folder_wherever_it_asked_to(roots):
    for folder in ("/etc", "../..", "results", ""):
        spec = roots.admit(toml(output__folder=folder, output__max_drop=0.1))
        assert spec.output.folder == str(roots.outputs / "a") and spec.output.max_drop == 0.1
        assert f'output.folder="{roots.outputs}/a"' in roots.settings(spec)


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_name_that_would_be_another_folder_is_refused(roots, name):
    assert list(faults(roots, name=name, output__folder="x")) == ["name"]


def test_a_root_that_is_not_there_is_refused(places):
    with pytest.raises(InputError, match=r"--root '.*/nowhere' is no folder"):
        Roots(places / "own", roots=[places / "nowhere"])


# ---------------------------------------------------------------------- clusters, and all at once


def test_a_spec_does_not_choose_a_cluster(places, roots):
    ray = {"backend__kind": "ray", "backend__workers": 2}
    assert roots.admit(toml(**ray)).backend.workers == 2
    for address in ("auto", "10.0.0.1:6379", "ray://10.0.0.1:10001"):
        assert list(faults(roots, **ray, backend__address=address)) == ["backend.address"]
    allowing = Roots(places / "own", ray_addresses=["auto"])
    assert allowing.admit(toml(**ray, backend__address="auto"))


def test_all_problems_are_told_at_once_each_with_its_place(roots):
    found = faults(
        roots,
        network__source="os:system",
        network__checkpoint="/etc/passwd",
        data__root="/etc",
        evaluation__metric="os:getcwd",
    )
    assert set(found) == {
        "network.source",
        "network.checkpoint",
        "data.root",
        "evaluation.metric",
    }


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"search__populaton": 3}, ["search.populaton"]),
        ({"search__population": "many"}, ["search.population"]),
        (
            {"search__population": "many", "budget__colour": 1},
            ["search.population", "budget.colour"],
        ),
        ({"seed": -1}, ["seed"]),
        ({"network__source": "digit-cnn"}, ["network.source"]),
        ({"method": "magic"}, ["method"]),
        ({"merge__floor": 1}, ["merge.floor"]),
        ({"backend__address": "auto"}, ["backend.address"]),
        ({"colour": 1}, ["colour"]),
    ],
)
def test_faults_of_the_spec_itself_are_those_of_the_command_line_with_their_place(
    roots, changes, paths
):
    found = faults(roots, **changes)
    assert sorted(found) == sorted(paths)
    with pytest.raises(SpecError) as caught:
        spec_of_text(toml(**changes))
    assert set(found.values()) == set(caught.value.problems)


def test_what_is_no_toml_has_no_place(roots):
    with pytest.raises(SpecError) as caught:
        roots.admit("name = ")
    (fault,) = faults_of(caught.value)
    assert fault.path == "" and fault.text.startswith("spec is not TOML")
