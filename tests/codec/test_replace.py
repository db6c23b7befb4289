import pytest

from moeash.codec.replace import replace_file
from moeash.errors import ExportError


def test_replacing_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ExportError, match=r"cannot write .*folder': Is a directory"):
        replace_file(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_replaced_file_has_the_permissions_of_a_new_one(tmp_path):
    (tmp_path / "ordinary").touch()
    replace_file(tmp_path / "x", b"1")
    replace_file(tmp_path / "x", b"2")
    assert (tmp_path / "x").read_bytes() == b"2"
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_content_that_fails_its_check_replaces_nothing(tmp_path):
    def refuse(path):
        assert path.read_bytes() == b"new"
        raise ValueError("not this one")

    (tmp_path / "x").write_bytes(b"old")
    with pytest.raises(ValueError, match="not this one"):
        replace_file(tmp_path / "x", b"new", check=refuse)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"
