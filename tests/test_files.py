import errno
import fcntl
import io
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moeash.errors import ExportError, InputError
from moeash.files import LEFTOVER_AGE_S, as_path, looked_for, replacing, write_flushed

LEFTOVER = ".moeash-0123456789abcdef.tmp"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def write(path, text):
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_the_name_stands_for_the_old_content_until_the_block_ends(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with replacing(path) as temporary:
        write_flushed(temporary, b"new")
        assert temporary.parent == tmp_path
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, ExportError])
def test_a_block_that_raises_replaces_nothing_and_leaves_nothing(tmp_path, error):
    (tmp_path / "x").write_text("old")
    for name in ("x", "y"):
        with pytest.raises(error), replacing(tmp_path / name) as temporary:
            temporary.write_text("new")
            raise error("not this one")
    assert names(tmp_path) == ["x"]
    assert (tmp_path / "x").read_text() == "old"


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path):
    (tmp_path / "ordinary").touch()
    write(tmp_path / "x", "1")
    write(tmp_path / "x", "2")
    assert (tmp_path / "x").read_text() == "2"
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_the_content_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def watched(handle):
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "x").exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write(tmp_path / "x", "new")
    assert flushed == [(False, False), (True, True)]  # the file before, its folder after


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    name = "ü" * 127
    write(tmp_path / name, "new")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("way", ["/proc/self/fd/{}", "/dev/fd/{}", "link"])
def test_a_file_that_is_open_is_not_replaced_through_its_number(tmp_path, way):
    with (tmp_path / "out").open("w") as out:
        link = tmp_path / "link"
        link.symlink_to(f"/dev/fd/{out.fileno()}")
        name = str(link) if way == "link" else way.format(out.fileno())
        with pytest.raises(ExportError, match="that some process has open"):
            write(name, "new")
    assert names(tmp_path) == ["link", "out"]
    assert (tmp_path / "out").read_text() == ""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("folder", "it is a folder"),
        ("pipe", "it is a pipe"),
        ("loop", "it is a link that leads to itself"),
        ("to-pipe", "it is a pipe"),
        ("to-folder", "it is a folder"),
        ("/dev/null", "it is a device"),
        ("", "it is a folder"),
        ("gone/x", "No such file or directory"),
        ("to-gone", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("x" * 256, "File name too long"),
    ],
)
def test_what_is_no_file_is_refused_and_stays(tmp_path, monkeypatch, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    os.mkfifo(tmp_path / "pipe")
    for link, target in [
        ("loop", "loop"),
        ("to-pipe", "pipe"),
        ("to-folder", "folder"),
        ("to-gone", "gone/x"),
    ]:
        (tmp_path / link).symlink_to(target)
    before = names(tmp_path)
    with pytest.raises(ExportError, match=f"cannot write .*{reason}.*; choose"):
        write(name, "new")
    assert names(tmp_path) == before
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode)
    assert stat.S_ISCHR(Path("/dev/null").lstat().st_mode)


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for target in ("there", "not-yet"):
        (tmp_path / target).symlink_to(Path("elsewhere", target))
        (tmp_path / f"{target}-2").symlink_to(target)
    (tmp_path / "elsewhere" / "there").write_text("old")
    before = names(tmp_path)
    for target in ("there", "not-yet"):
        write(tmp_path / f"{target}-2", "new")
        assert (tmp_path / target).is_symlink()
        assert (tmp_path / "elsewhere" / target).read_text() == "new"
    assert names(tmp_path) == before
    assert names(tmp_path / "elsewhere") == ["not-yet", "there"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match="Permission denied"):
        write(tmp_path / "x", "new")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_or_broken_disk_is_an_export_error(tmp_path, code):
    with pytest.raises(ExportError, match=os.strerror(code)), replacing(tmp_path / "x"):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("image file is truncated"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "picture.png"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
)
def test_what_fails_in_reading_something_else_is_not_called_a_failure_to_write(tmp_path, error):
    with pytest.raises(type(error)) as raised, replacing(tmp_path / "x"):
        raise error
    assert raised.value is error
    assert names(tmp_path) == []


def leftover(folder, *, age_s, name=LEFTOVER):
    path = folder / name
    path.write_text("half")
    then = time.time() - age_s
    os.utime(path, (then, then))
    return path


def test_what_killed_processes_left_is_removed_after_an_hour(tmp_path):
    leftover(tmp_path, age_s=LEFTOVER_AGE_S + 60)
    leftover(tmp_path, age_s=LEFTOVER_AGE_S - 60, name=LEFTOVER.replace("0", "1"))
    leftover(tmp_path, age_s=LEFTOVER_AGE_S + 60, name=".moeash-notes.tmp")
    leftover(tmp_path, age_s=LEFTOVER_AGE_S + 60, name="x.tmp")
    write(tmp_path / "x", "new")
    assert names(tmp_path) == [LEFTOVER.replace("0", "1"), ".moeash-notes.tmp", "x", "x.tmp"]


def test_a_temporary_file_in_use_is_no_leftover_however_old(tmp_path):
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("checked for hours")
        os.utime(temporary, (0, 0))
        write(tmp_path / "y", "new")
        assert temporary.exists()
    assert names(tmp_path) == ["x", "y"]


def test_leftovers_that_are_no_files_stay(tmp_path):
    (tmp_path / LEFTOVER).mkdir()
    link = tmp_path / LEFTOVER.replace("0", "1")
    (tmp_path / "elsewhere").touch()
    link.symlink_to("elsewhere")
    for path in (tmp_path / LEFTOVER, link):
        os.utime(path, (0, 0), follow_symlinks=False)
    write(tmp_path / "x", "new")
    assert names(tmp_path) == [LEFTOVER, link.name, "elsewhere", "x"]


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    def unsupported(handle, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    leftover(tmp_path, age_s=LEFTOVER_AGE_S + 60)
    write(tmp_path / "x", "new")
    assert names(tmp_path) == [LEFTOVER, "x"]  # nobody can tell whether it is in use


KILLED = """
import os, signal, sys
from moeash.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_in_the_middle_leaves_the_old_file_and_what_the_next_one_removes(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    (left,) = [p for p in tmp_path.iterdir() if p != path]
    os.utime(left, (0, 0))
    write(path, "new")
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (io.BytesIO(b""), "got BytesIO where the path of a file was needed"),
        (b"a", "got bytes where"),
        ("a\0b", r"'a\\x00b' names no file: it holds a null character"),
        ("a\ud800b", r"'a\\ud800b' names no file: surrogates not allowed"),
    ],
)
def test_what_is_no_path_is_refused_with_the_reason(path, message):
    for take in (as_path, lambda path: write(path, "new")):
        with pytest.raises(InputError, match=message):
            take(path)


def test_a_relative_path_that_leads_nowhere_is_told_with_where_it_began(tmp_path, monkeypatch):
    place = tmp_path / "deep"
    place.mkdir()
    monkeypatch.chdir(place)
    assert looked_for(Path("data/d.npz")) == f"'data/d.npz' (from '{place}')"
    assert looked_for(place / "d.npz") == f"'{place}/d.npz'"
    place.rmdir()
    assert looked_for(Path("d.npz")) == "'d.npz' (from a folder that is gone)"


def test_a_path_is_taken_as_it_is_given():
    assert as_path("a\udc80") == Path("a\udc80")  # bytes that are no text
    assert as_path("a") == as_path(Path("a")) == Path("a")


MAKES_A_FOLDER = """
import os, signal, sys, torch, moeash

def evaluate(module):
    if sys.argv[1] == "killed" and (calls.append(1) or len(calls) > 2):
        os.kill(os.getpid(), signal.SIGKILL)
    return float(module.weight.detach().std())

calls = []
study = moeash.search(
    torch.nn.Linear(8, 8), evaluate=evaluate, population=4, generations=1, progress=False
)
print(study.storage.url)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_a_search_that_was_killed_leaves_its_folder_to_the_next_one(tmp_path):
    def search(how, **pipes):
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", MAKES_A_FOLDER, how]
        return subprocess.Popen(command, env=environment, text=True, **pipes)

    assert search("killed").wait() == -signal.SIGKILL
    (left,) = tmp_path.glob("moeash-*")
    assert list(left.iterdir())
    with search("living", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        used = Path(living.stdout.readline().strip()).parent
        for folder in (left, used):
            os.utime(folder, (0, 0))
        assert search("ending", stdin=subprocess.DEVNULL).wait() == 0
        assert list(tmp_path.glob("moeash-*")) == [used]
        living.communicate("\n")
    assert not list(tmp_path.glob("moeash-*"))
