"""A database is a file that people pass on: what it names runs only where somebody allows it."""

import contextlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import moeash as package
from moeash.errors import InputError, SpecError, StudyExistsError
from moeash.study.spec.spec import StudySpec
from tests.marks import slow

CODE = """
import torch
from pathlib import Path
Path({ran!r}).touch()
def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
def data(root=None):
    x = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(0)).numpy()
    return {{"all": (x, (x.mean((1, 2, 3)) > 0).astype(int))}}
def score(outputs, labels):
    return (outputs.argmax(1) == labels).float()
"""

BUILT_IN = {
    "network.source": "digits-cnn",
    "data.source": "digits",
    "evaluation.metric": "top1",
}


def written(path: Path, **places: str) -> Path:
    """Write a spec whose sources and metric are given."""
    named = BUILT_IN | {key.replace("__", "."): value for key, value in places.items()}
    path.write_text(
        'name = "x"\nmethod.k = [3, 4]\nsearch.algorithm = "exhaustive"\nmerge.trials = 0\n'
        "evaluation.threads = 1\n"
        + "".join(f'{key} = "{value}"\n' for key, value in named.items())
        + 'data.splits.search = {part = "all", range = [0, 30]}\n'
        + 'data.splits.holdout = {part = "all", range = [30, 60]}\n'
    )
    return path


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module of a user's, and a file that tells whether it was run."""
    folder = tmp_path / "code"
    folder.mkdir()
    ran = tmp_path / "ran"
    (folder / "brought.py").write_text(CODE.format(ran=str(ran)))
    monkeypatch.syspath_prepend(folder)
    yield ran
    sys.modules.pop("brought", None)


def forgotten(ran):
    """Make the module one that was never imported."""
    sys.modules.pop("brought", None)
    ran.unlink(missing_ok=True)


@pytest.fixture(
    params=[
        {"network__source": "brought:network", "data__source": "brought:data"},
        slow({"evaluation__metric": "brought:score"}),
    ],
    ids=["network and data", "metric"],
)
def foreign(request, code, moeash, tmp_path):
    """A finished study whose spec names a user's code, in a database that came from elsewhere."""
    spec = written(tmp_path / "x.toml", **request.param)
    assert moeash("run", spec, "--storage", "x.db").code == 0
    assert code.exists()
    forgotten(code)
    return spec


EXPORT = ("export", "x", "--to", "x.moeash", "--force", "--storage", "x.db")
DRAW = ("plot", "x", "--kind", "codebook", "--to", "x.png", "--storage", "x.db")


@pytest.mark.parametrize("command", [EXPORT, slow(DRAW)], ids=["export", "plot"])
def test_a_command_runs_what_a_database_names_only_when_it_is_allowed(
    foreign, code, moeash, command
):
    answer = moeash(*command)
    assert (answer.code, answer.out) == (2, "")
    assert "study 'x' names code to run" in answer.err and "'brought:" in answer.err
    assert "--allow-module brought" in answer.err and "--spec" in answer.err
    for other in ("broug", "brought.inner", "os", "brought:other"):
        assert moeash(*command, "--allow-module", other).code == 2
    assert not code.exists()
    assert moeash(*command, "--allow-module", "brought", "--allow-module", "other").code == 0
    assert code.exists() or 'metric = "brought' in foreign.read_text()  # a picture needs no metric
    forgotten(code)
    assert moeash(*command, "--spec", foreign).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("function", ["torch.nn.Linear", "Path", "torch.save", "missing"])
def test_allowing_a_module_allows_what_it_defines_and_not_what_it_has_imported(
    foreign, code, moeash, function
):
    with sqlite3.connect("x.db") as database:
        database.execute(
            "UPDATE studies SET spec = json_set(spec, '$.network.source', ?)",
            (f"brought:{function}",),
        )
    database.close()
    answer = moeash(*EXPORT, "--allow-module", "brought")
    assert answer.code == 2 and f"defines no function {function!r} of its own" in answer.err
    assert f"--allow-module brought:{function}" in answer.err
    assert not code.exists()
    answer = moeash(*EXPORT, "--allow-module", "brought", "--allow-module", f"brought:{function}")
    assert answer.code != 0 and "defines no function" not in answer.err and code.exists()


@pytest.mark.slow
def test_looking_at_a_study_runs_nothing_it_names(foreign, code, moeash):
    for command in (
        ["list"],
        ["status", "x"],
        ["front", "x"],
        ["plot", "x", "--to", "a.png"],
        ["plot", "x", "--kind", "hypervolume", "--to", "b.png"],
    ):
        assert moeash(*command, "--storage", "x.db").code == 0
    assert not code.exists()


def test_from_python_code_is_allowed_where_the_study_is_opened(foreign, code, tmp_path):
    to = tmp_path / "y.moeash"
    with pytest.raises(InputError, match=r"allow_modules=\['brought'\]"):
        package.export(package.open_study("x", "x.db"), to, progress=False)
    assert not code.exists()
    for given in ({"allow_modules": ["brought"]}, {"spec": foreign}):
        package.export(package.open_study("x", "x.db", **given), to, force=True, progress=False)
        forgotten(code)


def test_a_study_that_was_run_in_this_process_is_exported_as_it_is(code, tmp_path):
    spec = written(
        tmp_path / "x.toml", network__source="brought:network", data__source="brought:data"
    )
    study = package.run(spec, storage=tmp_path / "x.db", progress=False)
    assert package.export(study, tmp_path / "x.moeash", progress=False).size_bytes > 0


@pytest.mark.slow
def test_a_database_that_was_changed_to_name_something_else_runs_nothing(
    moeash, tiny, tmp_path, code
):
    copy = tmp_path / "copy.db"
    shutil.copy(tiny.storage, copy)
    with sqlite3.connect(copy) as database:
        database.execute(
            "UPDATE studies SET spec = json_set(spec, '$.network.source', 'os:system')"
        )
    database.close()
    to = ("--to", "x.moeash", "--storage", copy)
    answer = moeash("export", "tiny", *to)
    assert answer.code == 2 and "network.source = 'os:system'" in answer.err
    # Its own file is no longer its own: it names other code.
    answer = moeash("export", "tiny", *to, "--spec", tiny.spec)
    assert answer.code == 0  # what the person's file says is done, not what the database says


def test_the_spec_of_another_study_allows_nothing(foreign, code, moeash, tmp_path):
    other = written(tmp_path / "other.toml")
    answer = moeash(*EXPORT, "--spec", other)
    assert answer.code == 2
    assert "the spec given for study 'x' is not its own (" in answer.err
    assert "brought:" in answer.err and not code.exists()
    with pytest.raises(StudyExistsError, match="name: 'y'"):
        text = foreign.read_text().replace('name = "x"', 'name = "y"')
        other.write_text(text)
        package.open_study("x", "x.db", spec=other)


@pytest.mark.parametrize(
    "places, expected",
    [
        ({}, {}),
        ({"network": {"source": "torchvision:resnet18", "weights": "random"}}, {}),
        ({"network": {"source": "a.b:c"}}, {"network.source": "a.b:c"}),
        ({"data": {"source": "torchvision:x"}}, {"data.source": "torchvision:x"}),
        ({"evaluation": {"metric": "os:system"}}, {"evaluation.metric": "os:system"}),
    ],
)
def test_code_is_what_is_not_built_in(places, expected):
    plain = {
        "name": "x",
        "network": {"source": "digits-cnn"},
        "data": {"source": "digits"},
        **{key: dict(value) for key, value in places.items()},
    }
    plain["data"]["splits"] = {"search": {"part": "all", "range": [0, 30]}}
    assert StudySpec.from_dict(plain).user_code == expected


# ------------------------------------------------------------------ files that have moved


@pytest.fixture
def files(tmp_path, moeash):
    """A finished study of images and weights in files, and the folder they are in."""
    from safetensors.torch import save_file

    from moeash.networks.loading.sources import load_network

    folder = tmp_path / "first"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.random((60, 1, 8, 8), dtype=np.float32)
    np.savez(folder / "d.npz", x_all=images, y_all=rng.integers(0, 10, 60))
    save_file(load_network("digits-cnn").state_dict(), folder / "w.safetensors")
    spec = written(tmp_path / "x.toml", data__source="npz")
    paths = [f"data.root={folder}/d.npz", f"network.checkpoint={folder}/w.safetensors"]
    assert moeash("run", spec, *settings(paths), "--storage", "x.db").code == 0
    return spec, folder


def settings(values):
    return [part for value in values for part in ("--set", str(value))]


def moved(folder, to):
    shutil.move(folder, to)
    return [f"data.root={to}/d.npz", f"network.checkpoint={to}/w.safetensors"]


@pytest.mark.parametrize("command", [EXPORT, slow(DRAW)], ids=["export", "plot"])
def test_a_reader_is_told_where_files_are_now(files, moeash, tmp_path, command):
    spec, folder = files
    paths = moved(folder, tmp_path / "second")
    assert moeash(*command).code == 2
    assert moeash(*command, *settings(paths)).code == 0
    with_paths = spec.read_text() + "".join(
        f'{key} = "{value}"\n' for key, _, value in (path.partition("=") for path in paths)
    )
    spec.write_text(with_paths)
    assert moeash(*command, "--spec", spec).code == 0
    # A reader changes nothing.
    assert str(folder) in str(package.open_study("x", "x.db").facts.spec)


def test_stored_paths_follow_when_a_study_is_continued_with_the_same_files(files, moeash, tmp_path):
    spec, folder = files
    paths = moved(folder, tmp_path / "second")
    assert moeash("run", spec, *settings(paths), "--storage", "x.db").code == 0
    stored = package.open_study("x", "x.db").facts.spec
    assert stored["data"]["root"] == f"{tmp_path}/second/d.npz"
    assert stored["network"]["checkpoint"] == f"{tmp_path}/second/w.safetensors"
    assert moeash(*EXPORT).code == 0


@pytest.mark.parametrize("which", ["data.root", "network.checkpoint"])
def test_other_files_are_refused_and_stored_paths_stay(files, moeash, tmp_path, which):
    spec, folder = files
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    if which == "data.root":
        held = dict(np.load(other / "d.npz"))
        held["x_all"][0] += 0.5
        np.savez(other / "d.npz", **held)
        path = f"data.root={other}/d.npz"
    else:
        from safetensors.torch import load_file, save_file

        state = load_file(other / "w.safetensors")
        next(iter(state.values())).view(-1)[0] += 1
        save_file(state, other / "w.safetensors")
        path = f"network.checkpoint={other}/w.safetensors"
    for command in (EXPORT, DRAW):
        answer = moeash(*command, "--set", path)
        assert answer.code == 2
        assert f"{which} = '{other}" in answer.err and "is not what the study was run" in answer.err
    paths = [f"data.root={folder}/d.npz", f"network.checkpoint={folder}/w.safetensors", path]
    assert moeash("run", spec, *settings(paths), "--storage", "x.db").code == 2
    assert str(other) not in str(package.open_study("x", "x.db").facts.spec)


def test_images_that_changed_where_they_lie_are_not_measured_on(files, moeash, tmp_path):
    _, folder = files
    held = dict(np.load(folder / "d.npz"))
    held["x_all"][0] += 0.5
    np.savez(folder / "d.npz", **held)
    answer = moeash(*EXPORT)
    assert answer.code == 2 and not (tmp_path / "x.moeash").exists()
    assert f"data.root = '{folder}/d.npz' is not what the study was run with" in answer.err


def change_last_image(folder):
    """Change an image that the holdout split alone has."""
    held = dict(np.load(folder / "d.npz"))
    held["x_all"][-1] += 0.5
    np.savez(folder / "d.npz", **held)


def test_no_solution_is_reported_on_other_holdout_images_than_those_before(files, moeash):
    _, folder = files
    change_last_image(folder)
    assert moeash(*EXPORT).code == 0, "nothing was reported yet, and nothing has looked at them"
    written = Path("x.moeash").read_bytes()
    study = package.open_study("x", "x.db")
    told = study.storage.events(study.record.id, kinds=["holdout_opened"])
    assert [event.payload for event in told] == [
        {"number": study.pick("smallest").id, "fingerprint": study.holdout_fingerprint}
    ]
    assert moeash(*EXPORT).code == 0
    change_last_image(folder)
    answer = moeash(*EXPORT)
    assert answer.code == 2 and Path("x.moeash").read_bytes() == written
    assert "solutions of this study were reported on another holdout split" in answer.err
    assert moeash(*DRAW).code == 0, "whoever does not look at them needs none"


@pytest.mark.parametrize("kind", ["codebook", slow("bytes")])
def test_a_picture_is_of_the_weights_that_were_measured(files, moeash, tmp_path, kind):
    from safetensors.torch import load_file, save_file

    _, folder = files
    state = load_file(folder / "w.safetensors")
    state["conv1.weight"] *= 1.5
    save_file(state, folder / "w.safetensors")
    answer = moeash("plot", "x", "--kind", kind, "--to", "x.png", "--storage", "x.db")
    assert answer.code == 1 and "rebuilds to other weights than were measured" in answer.err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    "setting", ["seed=1", "data.source=digits", "network={source='a'}", "budget.generations=3"]
)
def test_nothing_but_places_can_be_said_anew_of_a_stored_study(moeash, tiny, setting):
    answer = moeash(
        "export", "tiny", "--to", "x.moeash", "--storage", tiny.storage, "--set", setting
    )
    assert answer.code == 2
    places = "network.checkpoint, data.root, method.start and evaluation.device"
    assert f"only {places} can be given anew" in answer.err


def test_a_study_of_a_gpu_is_exported_where_there_is_none(moeash, tiny, tmp_path):
    shutil.copy(tiny.storage, tmp_path / "gpu.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "gpu.db")) as database, database:
        (spec,) = database.execute("SELECT spec FROM studies").fetchone()
        spec = json.loads(spec)
        spec["evaluation"]["device"] = "cuda"
        database.execute("UPDATE studies SET spec = ?", [json.dumps(spec)])
    export = ("export", "tiny", "--to", "x.moeash", "--storage", "gpu.db")
    answer = moeash(*export)
    assert answer.code == 0 and "holdout" in answer.out, answer.err
    here = torch.cuda.is_available()
    assert ("on the CPU, as cuda, where the study ran, is not here" in answer.err) != here
    again = moeash(*export, "--set", "evaluation.device=cpu", "--force")
    assert again.code == 0 and "where the study ran" not in again.err


def test_a_setting_that_is_none_is_refused(tiny):
    with pytest.raises(SpecError, match="is not KEY"):
        package.open_study("tiny", tiny.storage, settings=["data.root"])


def test_one_study_at_a_time_is_told_about(moeash, tiny):
    answer = moeash(
        "plot", "tiny", "tiny", "--to", "x.png", "--storage", tiny.storage, "--set", "data.root=x"
    )
    assert answer.code == 2 and "are for one study" in answer.err
