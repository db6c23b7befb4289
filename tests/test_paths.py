"""What no file can be called is refused in one line, wherever a path is taken."""

import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import moeash
from moeash.errors import InputError, MoeashError, StorageError

SPEC = {
    "name": "a",
    "network": {"source": "lenet5", "weights": "random"},
    "data": {"source": "digits", "splits": {"search": {"part": "all", "count": 20}}},
}

NAMES = {
    "long": "x" * 300,
    "long in bytes": "é" * 140,
    "deep": "d/" * 2500,
    "null character": "a\0b",
    "half a character": "a\ud800b",
    "below a file": "ok.moeash/x",
    "loop of links": "loop",
    "below a loop": "loop/x",
    "folder": ".",
    "nothing": "",
    "bytes": b"abc",
    "number": 7,
}


def spec_of(**tables):
    return {**SPEC, **{name: {**SPEC.get(name, {}), **keys} for name, keys in tables.items()}}


def compressed(to):
    moeash.compress(nn.Linear(4, 4), to, candidate={"k": 2}, progress=False)


def checkpoint(path, to):
    moeash.compress_checkpoint(path, to, k=2, progress=False)


TAKERS = {
    "spec": lambda p: moeash.run(p, storage="q.db", progress=False),
    "storage": moeash.open_storage,
    "storage of a study": lambda p: moeash.open_study("a", storage=p),
    "target": compressed,
    "load": lambda p: moeash.load(p, into=nn.Linear(4, 4)),
    "verify": moeash.verify,
    "inspect": moeash.inspect,
    "read": moeash.read,
    "decompress": lambda p: moeash.decompress(p, "o.safetensors"),
    "decompress to": lambda p: moeash.decompress("ok.moeash", p),
    "checkpoint": lambda p: checkpoint(p, "o.moeash"),
    "checkpoint to": lambda p: checkpoint("in/ok.safetensors", p),
    "spec to": lambda p: moeash.compress_spec(SPEC, p, max_drop=0.5, progress=False),
    "network.checkpoint": lambda p: moeash.run(
        spec_of(network={"weights": None, "checkpoint": p}), storage="q.db", progress=False
    ),
    "data.root": lambda p: moeash.run(
        spec_of(data={"source": "npz", "root": p}), storage="q.db", progress=False
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of files that are good."""
    folder = tmp_path_factory.mktemp("made")
    compressed(folder / "ok.moeash")
    (folder / "in").mkdir()
    save_file({"w": torch.ones(4, 4)}, folder / "in" / "ok.safetensors")
    (folder / "loop").symlink_to("loop")
    return folder


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_what_no_file_is_called_is_refused_with_our_error(taker, name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, symlinks=True, dirs_exist_ok=True)
    with pytest.raises(MoeashError) as caught:
        taker(name)
    assert "\n" not in str(caught.value)
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("q.db")}
    assert left == {"ok.moeash", "in", "loop"}


@pytest.mark.parametrize(("length", "fits"), [(241, True), (242, False)])
def test_a_database_has_a_name_that_leaves_room_for_the_files_beside_it(tmp_path, length, fits):
    place = tmp_path / ("x" * length)
    if fits:
        storage = moeash.open_storage(place)
        with storage.lock("a"):
            pass
        storage.close()
        return
    with pytest.raises(StorageError, match=r"cannot be a database: .*File name too long"):
        moeash.open_storage(place)
    assert not list(tmp_path.iterdir())


def test_storage_is_a_path_or_storage(tmp_path):
    with pytest.raises(InputError, match="got dict where the path of a file was needed"):
        moeash.open_storage({})
    storage = moeash.open_storage(tmp_path / "a.db")
    assert moeash.open_storage(storage) is storage
    storage.close()
