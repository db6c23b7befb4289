import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from moeash.data.npz import read_npz
from moeash.errors import DataError

X = np.zeros((3, 4, 4), np.uint8)
Y = np.arange(3)


def array(values):
    file = io.BytesIO()
    np.save(file, values, allow_pickle=True)
    return file.getvalue()


def claiming(shape, dtype="|u1", body=b""):
    """Return an array whose header claims a shape that its content does not have."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": dtype})
    return file.getvalue() + body


def pack(path, method=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in {"x": array(X), "y": array(Y), **members}.items():
            archive.writestr(f"{name}.npy", data)
    return path


def patched(path, at, value, **members):
    """Return an archive with a field of the last member's directory entry overwritten."""
    data = bytearray(pack(path, **members).read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + at : entry + at + len(value)] = value
    path.write_bytes(data)
    return path


def many(path):
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(1001):
            archive.writestr(str(i), b"")
    return path


FOUR_GIB = (1 << 32) - 2
BAD = {
    "pickled array": (lambda p: pack(p, x=array(np.array([X, None], object))), "pickled Python"),
    "bare pickle": (lambda p: p.write_bytes(pickle.dumps({"x": X})), "not a readable .npz"),
    "huge claim": (lambda p: pack(p, x=claiming((1 << 40, 28, 28))), "the file is damaged"),
    "overflowing": (lambda p: pack(p, x=claiming((1 << 40, 1 << 40))), "the file is damaged"),
    "negative": (lambda p: pack(p, x=claiming((-3, -4, 4), body=bytes(48))), "file is damaged"),
    "too short": (lambda p: pack(p, x=claiming((3, 4, 4), body=bytes(47))), "file is damaged"),
    "no width": (lambda p: pack(p, y=claiming((1 << 50,), dtype="|S0")), "needed numbers"),
    "records": (lambda p: pack(p, y=claiming((1,), dtype="|V8", body=bytes(8))), "needed num"),
    "long header": (
        lambda p: pack(p, x=b"\x93NUMPY\x02\0" + (1 << 30).to_bytes(4, "little") + b"{"),
        "not a readable .npz",
    ),
    "bzip2": (lambda p: pack(p, zipfile.ZIP_BZIP2), "packed by method 12"),
    "claimed size": (
        lambda p: patched(p, 24, FOUR_GIB.to_bytes(4, "little")),
        "which cannot be; the file is damaged",
    ),
    "packed size": (
        lambda p: patched(p, 20, FOUR_GIB.to_bytes(4, "little")),
        "which cannot be; the file is damaged",
    ),
    "many members": (many, "lists more than 1,000 arrays"),
    "cut": (lambda p: p.write_bytes(pack(p).read_bytes()[:-30]), "not a readable .npz"),
    "twice": (lambda p: twice(p), "two arrays of one name"),
    "pointer": (
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        "a Git LFS pointer, not the file itself; run 'git lfs pull'",
    ),
    "folder": (lambda p: p.mkdir(), "cannot read"),
    "nothing": (lambda p: None, "cannot read"),
}


def twice(path):
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            archive.writestr("x.npy", array(X))


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_before_memory_is_taken(tmp_path, name):
    write, message = BAD[name]
    write(tmp_path / "a.npz")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            read_npz(tmp_path / "a.npz")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def zeros(path, n_bytes):
    """Write an array of zeros that packs a thousandfold, without holding it."""
    header = claiming((n_bytes >> 20, 1024, 1024))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("y.npy", array(np.zeros(n_bytes >> 20, np.int64)))
        with archive.open("x.npy", "w", force_zip64=True) as file:
            file.write(header)
            for _ in range(n_bytes >> 20):
                file.write(bytes(1 << 20))
    return path


def test_a_small_file_that_unpacks_to_much_needs_to_be_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("moeash.data.npz.LEAST_LIMIT_BYTES", 1 << 22)
    path = zeros(tmp_path / "a.npz", 24 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"unpacks to 25,1.*, at most 4,194,304 .* max_bytes"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert read_npz(path, max_bytes=1 << 25)["x"].shape == (24, 1024, 1024)
    with pytest.raises(DataError, match="at most 1,000,000 are taken"):
        read_npz(path, max_bytes=1_000_000)


def test_what_is_stored_unpacked_is_read_at_any_size(tmp_path, monkeypatch):
    monkeypatch.setattr("moeash.data.npz.LEAST_LIMIT_BYTES", 1)
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    assert list(read_npz(tmp_path / "a.npz")) == ["x", "y"]


def test_arrays_that_are_no_part_are_not_looked_at(tmp_path):
    pack(tmp_path / "a.npz", meta=array(np.array([{"a": 1}])), xs=b"junk", x_test=array(X))
    assert sorted(read_npz(tmp_path / "a.npz")) == ["x", "x_test", "y"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_layout_and_version_is_read(tmp_path, order, version):
    values = np.asarray(np.arange(48, dtype=">u2").reshape(3, 4, 4), order=order)
    file = io.BytesIO()
    npy.write_array(file, values, version=version)
    arrays = read_npz(pack(tmp_path / "a.npz", x=file.getvalue()))
    np.testing.assert_array_equal(arrays["x"], values)


def test_a_device_is_no_data_set(tmp_path):
    """Its end, where an archive's table is, would be looked for until memory ends."""
    (link := tmp_path / "x.npz").symlink_to("/dev/zero")
    with pytest.raises(DataError, match="it is no regular file"):
        read_npz(link)
