import importlib.util
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets

from moeash.data.arrays import digits_source, load_digits, npz_source, torchvision_source
from moeash.data.splits import draw_splits
from moeash.errors import DataError

X = np.arange(4 * 2 * 3, dtype=np.uint8).reshape(4, 2, 3)
Y = np.array([0, 1, 2, 1])


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_an_npz_of_one_part(tmp_path):
    source = npz_source(root=save(tmp_path / "a.npz", x=X, y=Y))
    assert (source.parts, source.n_classes) == (("all",), 3)
    images = source.images("all", np.array([3, 0]))
    assert images.shape == (2, 1, 2, 3)
    torch.testing.assert_close(images[0, 0], torch.tensor(X[3] / 255, dtype=torch.float32))
    assert source.labels("all").dtype == np.int64


def test_an_npz_of_several_parts_with_channels_last(tmp_path):
    floats = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    path = save(tmp_path / "a.npz", x_train=floats, y_train=Y, x_test=floats[:2], y_test=Y[:2])
    source = npz_source(root=path, channels_last=True, n_classes=7)
    assert (source.parts, source.n_classes) == (("train", "test"), 7)
    images = source.images("test", np.array([1]))
    torch.testing.assert_close(images[0, 2], torch.tensor(floats[1, :, :, 2], dtype=torch.float32))


def test_asking_for_images_never_changes_the_source(tmp_path):
    source = npz_source(root=save(tmp_path / "a.npz", x=X.astype(np.float32), y=Y), mean=1.0)
    first = source.images("all", np.arange(4)).clone()
    source.images("all", np.arange(4)).zero_()
    assert torch.equal(source.images("all", np.arange(4)), first)


@pytest.mark.parametrize("dtype", ["bool", "u1", "<u2", ">i4", ">f8", "f2", "u8", "g"])
def test_every_real_dtype_and_byte_order_is_read(tmp_path, dtype):
    path = save(tmp_path / "a.npz", x=np.ones((1, 2, 2), dtype=dtype), y=np.zeros(1, dtype=">i2"))
    scale = 255 if np.dtype(dtype).kind in "ui" else 1
    images = npz_source(root=path).images("all", np.array([0]))
    torch.testing.assert_close(images, torch.full((1, 1, 2, 2), 1 / scale))


@pytest.mark.parametrize(
    "arrays, options, message",
    [
        ({"x": X}, {}, "'y' is missing"),
        ({"images": X}, {}, r"holds \['images'\], needed x and y"),
        ({"x_test": X, "y_train": Y}, {}, "'y_test' is missing"),
        ({"x": X, "y": Y[:3]}, {}, "4 images and 3 labels"),
        ({"x": X[:0], "y": Y[:0]}, {}, "is empty"),
        ({"x": X[:, :0], "y": Y}, {}, "is empty: its images have shape"),
        ({"x": X, "y": Y}, {"max_bytes": 0}, "max_bytes must be"),
        ({"x": X[0], "y": Y[:2]}, {}, r"images of shape \(2, 3\)"),
        ({"x": X.astype("U3"), "y": Y}, {}, "dtype <U3, needed numbers"),
        ({"x": X, "y": Y.astype(float)}, {}, "labels of shape .* and dtype float64"),
        ({"x": X, "y": Y - 1}, {}, "1 labels out of range, the first is -1 at 0"),
        ({"x": X, "y": Y}, {"n_classes": 2}, "the first is 2 at 2; .* below 2"),
        ({"x_a": X, "y_a": Y, "x_b": X / 2, "y_b": Y}, {}, "mixes integer and float"),
        ({"x": np.array([X, None], dtype=object), "y": Y}, {}, "pickled Python objects"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(tmp_path, arrays, options, message):
    with pytest.raises(DataError, match=message):
        npz_source(root=save(tmp_path / "a.npz", **arrays), **options)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut", b"text"])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"(not a readable .npz file|cannot read)"):
        npz_source(root=path)


@given(at=st.integers(0, 400), value=st.integers(0, 255))
@settings(deadline=None, max_examples=300)
def test_a_flipped_byte_is_refused_or_harmless(tmp_path_factory, at, value):
    path = save(tmp_path_factory.getbasetemp() / "flipped.npz", x=X, y=Y)
    data = bytearray(path.read_bytes())
    data[at % len(data)] = value
    path.write_bytes(data)
    with suppress(DataError):  # anything else fails the test
        source = npz_source(root=path)
        np.testing.assert_array_equal(source.labels("all"), Y)


def test_a_single_array_file_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", X)
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        npz_source(root=tmp_path / "a.npy")


def test_the_fingerprint_stays_when_the_file_moves(tmp_path):
    def fingerprint(path, limit):
        plan = {"a": {"count": 2}, "b": {"rest": True}}
        splits = draw_splits(npz_source(root=path), plan, memory_limit_bytes=limit)
        return [split.fingerprint() for split in splits.values()]

    here = save(tmp_path / "a.npz", x=X, y=np.array([0, 1, 0, 1]))
    (tmp_path / "b").mkdir()
    before = [fingerprint(here, limit) for limit in (0, 1 << 30)]
    there = here.rename(tmp_path / "b" / "other.npz")
    assert [fingerprint(str(there), limit) for limit in (0, 1 << 30)] == before


def test_a_git_lfs_pointer_among_torchvision_s_files_is_called_so(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            file = tmp_path / "MNIST" / "raw" / f"{part}-{kind}-ubyte"
            file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    source = torchvision_source("MNIST", root=tmp_path, preset="none", n_classes=10)
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte' is a Git LFS pointer"):
        source.labels("test")


def test_damaged_files_of_torchvision_are_refused(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / "MNIST" / "raw" / f"{part}-{kind}-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match=r"MNIST was not found .* or is damaged"):
        torchvision_source("MNIST", root=tmp_path, preset="none", n_classes=10).labels("test")


def test_digits_are_nearly_centred_and_complete():
    source = digits_source()
    images = source.images("all", np.arange(1797))
    assert images.shape == (1797, 1, 8, 8)
    assert abs(float(images.mean())) < 1e-3 and abs(float(images.std()) - 1) < 1e-3
    assert np.bincount(source.labels("all")).sum() == 1797


@pytest.mark.parametrize("package_found", [True, False])
def test_digits_are_those_of_scikit_learn(monkeypatch, package_found):
    """Whether its file is read or, where it is not where it was, scikit-learn itself is asked."""
    if not package_found:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    images, labels = load_digits()
    digits = datasets.load_digits()
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert np.array_equal(images, digits.images) and np.array_equal(labels, digits.target)


@pytest.mark.slow
def test_digits_are_read_without_importing_scikit_learn():
    probe = (
        "import sys; from moeash.data.arrays import load_digits; load_digits(); "
        "print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"])
def test_missing_files_are_not_downloaded_but_reported(tmp_path, dataset):
    source = torchvision_source(dataset, root=tmp_path, preset="none", n_classes=10)
    assert source.parts == ("train", "test")
    with pytest.raises(DataError, match=f"{dataset} was not found in '{tmp_path}'"):
        source.labels("test")
    assert not list(tmp_path.rglob("*.gz"))


@pytest.mark.realdata
def test_mnist_reads_the_original_files(real_data):
    source = torchvision_source("MNIST", root=real_data / "mnist", preset="mnist", n_classes=10)
    assert [source.labels(part).size for part in source.parts] == [60_000, 10_000]
    assert source.labels("train")[:5].tolist() == [5, 0, 4, 1, 9]
    assert source.images("test", np.arange(2)).shape == (2, 1, 28, 28)
