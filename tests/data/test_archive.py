import io
import tarfile

import pytest

from moeash.data.archive import index_directory, index_tar
from moeash.errors import DataError

TREE = {  # deliberately not in the order they must come out
    "dog/2.png": b"dd",
    "cat/b.jpg": b"bbb",
    "cat/a.JPEG": b"a",
    "cat/sub/0.jpg": b"s",
    "cat/notes.txt": b"not a picture",
    "README": b"outside",
}


def write_tree(root, tree):
    for name, data in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_tar(path, tree, *, prefix="", folders=(), mode="w", links=()):
    with tarfile.open(path, mode) as archive:
        for folder in folders:
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, data in tree.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


@pytest.mark.parametrize("kind", ["directory", "tar", "dotted tar"])
def test_pictures_come_by_class_and_path_and_other_files_do_not(tmp_path, kind):
    if kind == "directory":
        folder = index_directory(write_tree(tmp_path / "set", TREE))
    else:
        folder = index_tar(
            write_tar(tmp_path / "a.tar", TREE, prefix="./" if kind == "dotted tar" else "")
        )
    assert folder.classes == ("cat", "dog")
    assert [(p.path, p.label) for p in folder.pictures] == [
        ("cat/a.JPEG", 0),
        ("cat/b.jpg", 0),
        ("cat/sub/0.jpg", 0),
        ("dog/2.png", 1),
    ]
    assert [folder.read(p) for p in folder.pictures] == [b"a", b"bbb", b"s", b"dd"]


def test_a_folder_around_the_classes_is_taken_off(tmp_path):
    tree = {"cat/a.jpg": b"1", "dog/b.jpg": b"2"}
    folders = ["test", "test/cat", "test/dog"]
    folder = index_tar(write_tar(tmp_path / "a.tar", tree, prefix="test/", folders=folders))
    assert folder.classes == ("cat", "dog")
    assert [p.path for p in folder.pictures] == ["cat/a.jpg", "dog/b.jpg"]


@pytest.mark.parametrize(
    "name", ["../escaped.jpg", "cat/../../escaped.jpg", "/escaped/a.jpg", "../notes.txt"]
)
def test_an_archive_with_climbing_names_is_refused_and_nothing_is_unpacked(tmp_path, name):
    (tmp_path / "in").mkdir()
    path = write_tar(tmp_path / "in" / "a.tar", {"cat/a.jpg": b"1", name: b"2"})
    with pytest.raises(DataError, match="leaves the archive"):
        index_tar(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar", "in"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_special_files_are_refused(tmp_path, kind):
    path = write_tar(tmp_path / "a.tar", {"cat/a.jpg": b"1"}, links=[("cat/b.jpg", "a.jpg", kind)])
    with pytest.raises(DataError, match=r"'cat/b.jpg' in .* is a link or special file"):
        index_tar(path)


def cut(path):
    write_tar(path, {"cat/a.jpg": b"1" * 5000})
    path.write_bytes(path.read_bytes()[:3000])


def twice(path):
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            info = tarfile.TarInfo("cat/a.jpg")
            info.size = 1
            archive.addfile(info, io.BytesIO(b"1"))


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: path.write_bytes(b"not a tar" * 100), "not a readable uncompressed .tar"),
        (lambda path: path.write_bytes(b""), "not a readable uncompressed .tar"),
        (lambda path: write_tar(path, TREE, mode="w:gz"), "not a readable uncompressed .tar"),
        (cut, "not a readable uncompressed .tar: unexpected end of data"),
        (twice, "holds 'cat/a.jpg' twice"),
        (lambda path: write_tar(path, {"a.jpg": b"1", "c/b.jpg": b"2"}), "in no class folder"),
        (lambda path: write_tar(path, {"cat/notes.txt": b"1"}), "holds no pictures, needed"),
        (
            lambda path: write_tar(path, {"cat/a.jpg": b"1"}, folders=["dog"]),
            "class 'dog' of .* holds no pictures",
        ),
        (
            lambda path: write_tar(path, {"dog/x.txt": b"", "cat/a.jpg": b"1"}, folders=["./dog/"]),
            "class 'dog' of .* holds no pictures",
        ),
    ],
)
def test_archives_that_are_no_image_folder_are_refused(tmp_path, write, message):
    write(tmp_path / "a.tar")
    with pytest.raises(DataError, match=message):
        index_tar(tmp_path / "a.tar")


def test_an_empty_class_folder_on_disk_is_refused(tmp_path):
    write_tree(tmp_path, {"cat/a.jpg": b"1", "dog/notes.txt": b"2"})
    with pytest.raises(DataError, match="class 'dog'"):
        index_directory(tmp_path)


def test_a_picture_that_shrank_after_indexing_is_noticed(tmp_path):
    folder = index_directory(write_tree(tmp_path, {"cat/a.jpg": b"12345"}))
    (tmp_path / "cat/a.jpg").write_bytes(b"123")
    with pytest.raises(DataError, match="has 3 bytes, had 5"):
        folder.read(folder.pictures[0])
    (tmp_path / "cat/a.jpg").unlink()
    with pytest.raises(DataError, match=r"cannot read 'cat/a.jpg'"):
        folder.read(folder.pictures[0])
