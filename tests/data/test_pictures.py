import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from moeash.data.pictures import PictureSource, imagefolder_source, imagenet_source
from moeash.data.splits import draw_splits
from moeash.errors import DataError


def png(value, size=(4, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(file, "png")
    return file.getvalue()


def write_folder(root, tree):
    for name, data in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(folder, target):
    with tarfile.open(target, "w") as archive:
        archive.add(folder, arcname=target.stem)
    return target


TREE = {f"{c}/{i}.png": png(10 * i + k) for k, c in enumerate(["a", "b", "c"]) for i in range(3)}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "set").mkdir()
    write_folder(tmp_path / "set" / "train", TREE)
    pack(write_folder(tmp_path / "elsewhere", TREE), tmp_path / "set" / "test.tar")
    return tmp_path / "set"


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_folder_and_its_tar_give_the_same_images(root, n_threads):
    source = imagefolder_source(root=root, preset="none", n_threads=n_threads)
    assert set(source.parts) == {"train", "test"}
    assert source.n_classes == 3
    indices = np.array([8, 0, 4])
    images = {part: source.images(part, indices) for part in source.parts}
    assert torch.equal(images["train"], images["test"])
    assert images["train"].shape == (3, 3, 4, 4)
    np.testing.assert_allclose(images["test"][:, 0, 0, 0] * 255, [22, 0, 11], rtol=1e-6)
    np.testing.assert_array_equal(source.labels("test"), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert source.files("train", indices)[1:] == source.files("test", indices)[1:]


def test_labels_are_known_although_no_picture_decodes(tmp_path):
    write_folder(tmp_path, {"a/1.jpg": b"junk", "b/1.jpg": b"junk"})
    source = imagefolder_source(root=tmp_path, preset="none")
    assert source.parts == ("all",)
    assert source.labels("all").tolist() == [0, 1]
    with pytest.raises(DataError, match=r"'b/1.jpg' in .* is not a readable picture"):
        source.images("all", np.array([1]))


@pytest.mark.parametrize("data", [b"", png(1)[:40], b"GIF89a" + bytes(20)])
def test_damaged_pictures_are_refused_by_name(tmp_path, data):
    write_folder(tmp_path, {"a/1.png": data})
    with pytest.raises(DataError, match=r"'a/1\.png'"):
        imagefolder_source(root=tmp_path, preset="none").images("all", np.array([0]))


def test_a_line_of_pixels_is_not_blown_up_by_resizing(tmp_path):
    write_folder(tmp_path, {"a/1.png": png(1, (60_000, 1))})
    source = imagefolder_source(root=tmp_path, preset="none", resize=256, crop=224)
    with pytest.raises(DataError, match=r"60000 x 1 pixels has 3,932,160,000 when"):
        source.images("all", np.array([0]))


@pytest.mark.parametrize("layout", ["one", "parts"])
def test_hidden_folders_are_neither_parts_nor_classes(tmp_path, layout):
    inner = tmp_path / "train" if layout == "parts" else tmp_path
    for folder in (tmp_path, inner):
        write_folder(folder, {".ipynb_checkpoints/1.png": png(9), "__MACOSX/a/._1.png": b"junk"})
    write_folder(inner, {**TREE, "a/._0.png": b"junk"})
    (tmp_path / "._train.tar").write_bytes(b"junk")
    source = imagefolder_source(root=tmp_path, preset="none")
    assert source.parts == ("train" if layout == "parts" else "all",)
    assert source.n_classes == 3
    assert len(source.labels(source.parts[0])) == 9


def test_a_picture_beside_the_classes_of_a_part_makes_no_class_of_it(tmp_path):
    classes = {"cat/a.png": png(1), "dog/b.png": png(2)}
    for part in ("train", "val"):
        write_folder(tmp_path / part, classes)
    (tmp_path / "val" / "overview.png").write_bytes(png(3))
    with pytest.raises(DataError, match=r"/val' holds pictures beside folders of pictures"):
        imagefolder_source(root=tmp_path, preset="imagenet")
    # Folders within a class are its own, where one class shows what the folders are.
    write_folder(tmp_path / "one", {**classes, "dog/more/c.png": png(4)})
    source = imagefolder_source(root=tmp_path / "one", preset="imagenet", resize=4, crop=4)
    assert source.labels("all").tolist() == [0, 1, 1]


def test_the_fingerprint_stays_when_the_folder_moves(tmp_path):
    def fingerprints(root):
        prints = []
        for limit in (0, 1 << 30):
            for part in ("train", "test"):
                source = imagefolder_source(root=root, preset="none")
                plan = {"a": {"part": part, "count": 4}}
                split = draw_splits(source, plan, memory_limit_bytes=limit)["a"]
                prints.append(split.fingerprint())
        return prints

    write_folder(tmp_path / "here" / "train", TREE)
    pack(write_folder(tmp_path / "elsewhere", TREE), tmp_path / "here" / "test.tar")
    before = fingerprints(tmp_path / "here")
    (tmp_path / "another").mkdir()
    (tmp_path / "here").rename(tmp_path / "another" / "place")
    assert fingerprints(tmp_path / "another" / "place") == before
    assert fingerprints(str(tmp_path / "another" / "place") + "/") == before
    (tmp_path / "link").symlink_to(tmp_path / "another" / "place")
    assert fingerprints(tmp_path / "link") == before


def test_pictures_of_several_sizes_need_a_resize_and_crop(tmp_path):
    write_folder(tmp_path, {"a/1.png": png(1), "a/2.png": png(2, (6, 9))})
    both = np.array([0, 1])
    with pytest.raises(DataError, match=r"'a/2.png' gives an image of shape \(3, 9, 6\)"):
        imagefolder_source(root=tmp_path, preset="none").images("all", both)
    source = imagefolder_source(root=tmp_path, preset="none", resize=8, crop=8)
    assert source.images("all", both).shape == (2, 3, 8, 8)


def test_grey_and_palette_pictures_become_the_channels_asked_for(tmp_path):
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "png")
    write_folder(tmp_path, {"a/1.png": file.getvalue()})
    for channels in (1, 3):
        source = imagefolder_source(root=tmp_path, preset="none", channels=channels)
        assert source.images("all", np.array([0])).shape == (1, channels, 4, 4)


def test_parts_with_other_classes_are_refused(root):
    write_folder(root / "train", {"d/1.png": png(1)})
    source = imagefolder_source(root=root, preset="none")
    source.labels("test")
    with pytest.raises(DataError, match="differ in their classes: 'd'"):
        source.labels("train")


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "needs the normalisation"),
        ({"mean": 0.5}, "needs the normalisation"),
        ({"preset": "none", "channels": 4}, "channels must be"),
        ({"preset": "none", "n_threads": 0}, "n_threads must be"),
    ],
)
def test_options_that_cannot_be_met_are_refused(root, options, message):
    with pytest.raises(DataError, match=message):
        imagefolder_source(root=root, **options)


def test_missing_and_empty_folders_say_where_was_looked(tmp_path):
    with pytest.raises(DataError, match="needs root"):
        imagefolder_source(root=None, preset="none")
    with pytest.raises(DataError, match="nowhere' does not exist"):
        imagefolder_source(root=tmp_path / "nowhere", preset="none")
    with pytest.raises(DataError, match="holds neither"):
        imagefolder_source(root=tmp_path, preset="none")


def test_a_part_may_not_be_both_folder_and_tar(root):
    write_folder(root / "test", TREE)
    with pytest.raises(DataError, match="'test' as folder and as"):
        imagefolder_source(root=root, preset="none")


def test_imagenet_insists_on_its_thousand_classes(tmp_path):
    write_folder(tmp_path / "val", {f"n{i:04}/x.png": png(i % 256, (8, 8)) for i in range(1000)})
    source = imagenet_source(root=tmp_path, n_threads=2)
    assert source.n_classes == 1000
    assert source.images("val", np.array([999, 3])).shape == (2, 3, 224, 224)
    write_folder(tmp_path / "val", {"n1000/x.png": png(0)})
    with pytest.raises(DataError, match=r"needs 1000 class folders.*has 1001"):
        imagenet_source(root=tmp_path).labels("val")


@pytest.mark.realdata
def test_the_cifar_archive_holds_a_thousand_images_per_class(real_data):
    source = imagefolder_source(root=real_data / "cifar10-jpeg", preset="cifar")
    assert isinstance(source, PictureSource)
    assert np.bincount(source.labels("test")).tolist() == [1000] * 10
    assert source.images("test", np.array([0, 9999])).shape == (2, 3, 32, 32)
