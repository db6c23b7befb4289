import io
import tarfile
import tracemalloc

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


def index(tmp_path, kind, tree):
    if kind == "directory":
        return index_directory(write_tree(tmp_path / "set", tree))
    prefix = {"tar": "", "dotted tar": "./", "wrapped tar": "set/"}[kind]
    return index_tar(write_tar(tmp_path / "a.tar", tree, prefix=prefix))


LEFT = [
    ".ipynb_checkpoints/a-checkpoint.png",
    "cat/.ipynb_checkpoints/a-checkpoint.png",
    "__MACOSX/cat/._a.png",
    "cat/__MACOSX/b.png",
    "cat/._a.png",
    "._cat/a.png",
    "cat/.DS_Store",
    "cat/Thumbs.db",
    "cat/sub/desktop.ini",
    ".DS_Store",
    "@eaDir/cat/a.png",
    "$RECYCLE.BIN/a.png",
    "#recycle/a.png",
    "@Recycle/dog/a.png",
    "cat/@Recently-Snapshot/a.png",
    "Network Trash Folder/a.png",
]


@pytest.mark.parametrize("kind", ["directory", "tar", "dotted tar", "wrapped tar"])
def test_what_systems_leave_behind_is_neither_class_nor_picture(tmp_path, kind):
    tree = {"cat/a.png": b"a", "dog/b.png": b"b"}
    wrapped = {"c/d.png": b""} if kind == "wrapped tar" else {}
    folder = index(tmp_path, kind, dict.fromkeys(LEFT, b"left") | tree | wrapped)
    assert folder.classes == tuple(sorted({name[:-6] for name in tree | wrapped}))
    assert [p.path for p in folder.pictures] == sorted(tree | wrapped)


@pytest.mark.parametrize("kind", ["directory", "tar", "wrapped tar"])
def test_pictures_that_are_not_read_are_named_instead_of_passed_by(tmp_path, kind):
    with pytest.raises(DataError, match=r"holds 'cat/b.GIF', which is not read; convert"):
        index(tmp_path, kind, {"cat/a.png": b"1", "cat/b.GIF": b"2"})


@pytest.mark.parametrize("kind", ["directory", "tar"])
def test_a_class_without_pictures_says_what_it_holds(tmp_path, kind):
    with pytest.raises(DataError, match=r"class 'dog' .* no pictures but 'dog/notes.txt'; remove"):
        index(tmp_path, kind, {"cat/a.png": b"1", "dog/notes.txt": b"2"})


def test_a_picture_beside_the_class_folders_on_disk_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"'a.png' in .* is in no class folder"):
        index(tmp_path, "directory", {"a.png": b"1", "cat/a.png": b"1"})


def test_a_class_may_be_a_link_and_what_a_broken_link_meant_is_missed(tmp_path):
    write_tree(tmp_path, {"elsewhere/a.png": b"1", "set/dog/a.png": b"2"})
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    assert [p.path for p in index_directory(tmp_path / "set").pictures] == [
        "cat/a.png",
        "dog/a.png",
    ]
    (tmp_path / "set" / "dog" / "b.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"'dog/b.png' .* is a broken link"):
        index_directory(tmp_path / "set")
    (tmp_path / "set" / "dog" / "b.png").unlink()
    (tmp_path / "set" / "dog" / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'dog/more' .* is a link to a folder"):
        index_directory(tmp_path / "set")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def test_a_git_lfs_pointer_is_called_so(tmp_path):
    (tmp_path / "a.tar").write_bytes(POINTER)
    with pytest.raises(DataError, match=r"a.tar' is a Git LFS pointer.*run 'git lfs pull'"):
        index_tar(tmp_path / "a.tar")
    folder = index(tmp_path, "directory", {"cat/a.png": POINTER})
    with pytest.raises(DataError, match=r"'cat/a.png' of .* is a Git LFS pointer"):
        folder.read(folder.pictures[0])


@pytest.mark.parametrize("kind", ["directory", "tar", "dotted tar"])
def test_pictures_come_by_class_and_path_and_other_files_do_not(tmp_path, kind):
    with pytest.warns(UserWarning, match=r"holds 'cat/notes.txt', not taken for pictures"):
        folder = index(tmp_path, kind, TREE)
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


def header(name, size, *, kind=tarfile.REGTYPE):
    """Return a header with a size field as it likes, and the checksum that belongs to it."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(value):
    return bytes([0xFF if value < 0 else 0x80]) + value.to_bytes(11, "big", signed=True)


def pax(name, **fields):
    info = tarfile.TarInfo(name)
    info.pax_headers = {key: str(value) for key, value in fields.items()}
    return info.tobuf(tarfile.PAX_FORMAT)


GOOD = header("cat/a.png", b"%011o\0" % 3) + b"abc".ljust(512, b"\0")
END = bytes(1024)
HOSTILE = {
    "negative size": GOOD + header("cat/b.png", base256(-512)) + END,
    "size that leads back": GOOD + header("cat/b.png", base256(-1536)) + END,
    "absurd size": GOOD + header("cat/b.png", base256(1 << 62)) + END,
    "size beyond the file": GOOD + header("cat/b.png", b"%011o\0" % 5000) + END,
    "size of text": GOOD + header("cat/b.png", b"not a number") + END,
    "absurd long name": GOOD + header("././@LongLink", base256(1 << 31), kind=b"L") + END,
    "negative long name": GOOD + header("././@LongLink", base256(-512), kind=b"L") + END,
    "absurd pax header": GOOD + header("x", base256(1 << 31), kind=b"x") + END,
    "negative size by pax": GOOD + pax("cat/b.png", size=-512) + END,
    "absurd size by pax": GOOD + pax("cat/b.png", size=10**30) + END,
    "endless long names": GOOD
    + (header("././@LongLink", b"%011o\0" % 3, kind=b"L") + b"abc".ljust(512, b"\0")) * 3000
    + END,
    "no end": GOOD,
    "half an end": GOOD + bytes(100),
    "noise for a header": GOOD + b"\x01" * 512 + GOOD.replace(b"a.png", b"b.png") + END,
    "cut in a header": GOOD + GOOD[:300],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_cut_tar_is_refused_within_its_own_size(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"not a readable uncompressed .tar") as caught:
            index_tar(tmp_path / "a.tar")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_sound_tar_made_by_hand_is_read(tmp_path):
    (tmp_path / "a.tar").write_bytes(GOOD + END)
    folder = index_tar(tmp_path / "a.tar")
    assert [folder.read(picture) for picture in folder.pictures] == [b"abc"]


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path):
    (tmp_path / "cat").mkdir()
    with (tmp_path / "cat" / "a.png").open("wb") as file:
        file.truncate(40 << 30)
    folder = index_directory(tmp_path)
    with pytest.raises(DataError, match=r"has 42,949,672,960 bytes; pictures have at most"):
        folder.read(folder.pictures[0])
