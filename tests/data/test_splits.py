import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from moeash.data.arrays import from_arrays
from moeash.data.normalise import normalisation
from moeash.data.sources import load_source
from moeash.data.splits import draw_splits, sample
from moeash.errors import DataError

PLAIN = normalisation("none", scale=1.0)


def source_of(labels, *, other=3):
    """Images that hold their own position, so that a test sees which one it was given."""
    labels = np.asarray(labels)
    x = np.arange(labels.size, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    pairs = {"all": (x, labels)}
    if other:
        pairs["more"] = (x[:other], labels[:other])
    return from_arrays("toy", pairs, PLAIN)


def alternating(n, n_classes=3):
    return source_of(np.arange(n) % n_classes, other=0)


@given(
    labels=st.lists(st.integers(0, 4), min_size=12, max_size=80),
    counts=st.lists(st.integers(1, 15), min_size=1, max_size=3),
    low=st.integers(0, 6),
    seed=st.integers(0, 2**63),
)
@settings(deadline=None)
def test_drawn_splits_are_disjoint_balanced_and_complete(labels, counts, low, seed):
    source = source_of(labels, other=0)
    plan = {
        f"draw{i}": {"count": n, "seed": seed, "range": [low, len(labels)]}
        for i, n in enumerate(counts)
    }
    plan["last"] = {"rest": True}
    try:
        splits = draw_splits(source, plan)
    except DataError as exc:
        assert "are left for it" in str(exc) or "is empty" in str(exc)
        return
    everything = np.concatenate([split.indices for split in splits.values()])
    assert_array_equal(np.sort(everything), np.arange(len(labels)))
    classes = np.unique(labels)
    for name, n in zip(splits, counts, strict=False):
        split = splits[name]
        assert len(split) == n
        assert (np.diff(split.indices) > 0).all()
        assert split.indices.min() >= low
        per_class = np.array([(split.labels == c).sum() for c in classes])
        assert (per_class.max() - per_class.min() <= 1) == (split.note is None)
        assert_array_equal(split.labels, np.asarray(labels)[split.indices])


def test_a_plan_checked_by_hand():
    splits = draw_splits(
        source_of(np.arange(10) % 2, other=4),
        {
            "search": {"part": "all", "range": [6, 10]},
            "holdout": {"part": "more", "rest": True},
            "calibration": {"part": "all", "range": [0, 6], "count": 2, "seed": 1},
            "train": {"part": "all", "range": [0, 6], "rest": True},
        },
    )
    assert splits["search"].indices.tolist() == [6, 7, 8, 9]
    assert splits["holdout"].indices.tolist() == [0, 1, 2, 3]
    assert sorted(splits["calibration"].labels) == [0, 1]
    assert splits["train"].indices.tolist() == [0, 1, 2, 3, 4, 5]  # calibration's among them


@pytest.mark.parametrize("first", ["calibration", "train"])
def test_calibration_and_train_may_share_images_and_nobody_else_may(first):
    second = "train" if first == "calibration" else "calibration"
    plan = {first: {"range": [0, 6]}, second: {"range": [2, 9]}}
    source = source_of(np.arange(12) % 2, other=0)
    splits = draw_splits(source, plan)
    assert splits[second].indices.tolist() == list(range(2, 9))
    for other in ("search", "holdout"):
        with pytest.raises(DataError, match=f"splits '{other}' and .* overlap"):
            draw_splits(source, {**plan, other: {"range": [5, 12]}})
        rest = draw_splits(source, {**plan, other: {"rest": True}})
        assert rest[other].indices.tolist() == [9, 10, 11]


def test_a_draw_is_the_same_on_every_machine():
    split = draw_splits(alternating(30), {"a": {"count": 7, "seed": 3}})["a"]
    assert split.indices.tolist() == [0, 4, 7, 9, 20, 23, 28]


def test_classes_with_one_image_are_divided_as_far_as_they_go():
    """ImageNet's sample has one picture a class: a second draw finds most classes empty."""
    plan = {"search": {"count": 400}, "holdout": {"count": 400}, "calibration": {"rest": True}}
    splits = draw_splits(source_of(np.arange(1000), other=0), plan)
    assert [len(split) for split in splits.values()] == [400, 400, 200]
    taken = np.concatenate([split.indices for split in splits.values()])
    assert np.unique(taken).size == 1000
    assert [split.note for split in splits.values()] == [None, None, None], "all have 0 or 1"


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.data())
def test_classes_differ_only_where_one_has_no_more(sizes, data):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    if not labels.size:
        return
    count = data.draw(st.integers(1, labels.size))
    split = draw_splits(source_of(labels, other=0), {"a": {"count": count, "seed": 1}})["a"]
    drawn = np.bincount(labels[split.indices], minlength=len(sizes))
    assert drawn.sum() == count
    full = drawn == np.array(sizes)
    if not full.all():
        others = drawn[~full]
        assert others.max() - others.min() <= 1
        assert drawn[full].max(initial=0) <= others.min() + 1
    present = drawn[np.array(sizes) > 0]
    unequal = present.max() - present.min() > 1
    assert (split.note is not None) == unequal
    if unequal:
        assert f"has {present.min()} to {present.max()} images a class" in split.note


def test_a_sample_is_drawn_from_everywhere_and_the_same_on_every_machine():
    assert sample(12, 4, seed=0).tolist() == [1, 2, 3, 11]
    assert sample(3, 10, seed=0).tolist() == [0, 1, 2]
    hits = np.bincount(np.concatenate([sample(20, 5, seed) for seed in range(2000)]), minlength=20)
    assert abs(hits - 500).max() < 100


def test_the_seed_decides_the_draw():
    draws = {
        tuple(draw_splits(alternating(300), {"a": {"count": 30, "seed": s}})["a"].indices)
        for s in range(5)
    }
    assert len(draws) == 5


@pytest.mark.parametrize(
    "plan, message",
    [
        ({"a": {"range": [0, 5]}, "b": {"range": [4, 9]}}, "splits 'b' and 'a' overlap: 1 of 5"),
        ({"a": {"count": 3}, "b": {"range": [0, 9]}}, "splits 'b' and 'a' overlap: 3 of 9"),
        ({"a": {"rest": True}, "b": {"rest": True}}, "split 'b' is empty"),
        ({"a": {"range": [0, 9]}, "b": {"count": 1}}, "wants 1 images, but 0 are left"),
        ({"a": {"range": [3, 3]}}, "split 'a' is empty: its range"),
        ({"a": {"range": [0, 10]}}, r"range \[0, 10\], but part 'all' has 9"),
        ({"a": {"range": [-1, 3]}}, "needed a whole number from 0"),
        ({"a": {"range": [0, 1, 2]}}, r"needed \[first, end\]"),
        ({"a": {"range": "all"}}, r"needed \[first, end\]"),
        ({"a": {"count": 0}}, "needed a whole number from 1"),
        ({"a": {"count": True}}, "needed a whole number from 1"),
        ({"a": {"count": 2.5}}, "needed a whole number from 1"),
        ({"a": {"count": 2, "seed": -1}}, "seed -1"),
        ({"a": {"count": 10}}, "wants 10 images, but 9 are left"),
        ({"a": {"count": 2, "rest": True}}, "both count and rest"),
        ({"a": {}}, "needs range, count or rest"),
        ({"a": {"rest": False}}, "needs range, count or rest"),
        ({"a": {"cuont": 2}}, "no key 'cuont'; nearest: 'count'"),
        (
            {"a": {"part": "test", "rest": True}},
            "part 'test', which toy does not have; valid",
        ),
    ],
)
def test_plans_that_cannot_be_met_are_refused(plan, message):
    with pytest.raises(DataError, match=message):
        draw_splits(alternating(9), plan)


def test_the_part_must_be_said_where_there_are_several():
    with pytest.raises(DataError, match="parts are 'all', 'more'"):
        draw_splits(source_of([0, 1, 2]), {"a": {"rest": True}})


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_hold_every_image_with_its_label_in_order(limit, batch_size):
    split = draw_splits(
        alternating(20), {"a": {"count": 9}, "b": {"rest": True}}, memory_limit_bytes=limit
    )["b"]
    assert split.in_memory == (limit > 0)
    for order in (None, np.arange(11)[::-1], np.array([3, 3, 0])):
        batches = list(split.batches(batch_size, order))
        assert all(len(x) == batch_size for x, _ in batches[:-1])
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        wanted = split.indices if order is None else split.indices[order]
        assert images.dtype == torch.float32 and images.shape[1:] == (1, 2, 2)
        assert_array_equal(images[:, 0, 0, 0], wanted)
        assert_array_equal(labels, wanted % 3)


def test_a_stream_may_be_left_early():
    split = draw_splits(alternating(20), {"a": {"rest": True}}, memory_limit_bytes=0)["a"]
    for x, _ in split.batches(4):
        assert len(x) == 4
        break


@pytest.mark.parametrize("order", [[-1], [20], [0, 99]])
def test_an_order_beyond_the_split_is_refused(order):
    split = draw_splits(alternating(20), {"a": {"rest": True}})["a"]
    with pytest.raises(DataError, match=r"order leaves the positions 0\.\.19"):
        next(split.batches(4, np.array(order)))
    with pytest.raises(DataError, match="batch_size"):
        next(split.batches(0))


class Odd:
    """A user's source with one fault."""

    name, parts, n_classes = "odd", ("all",), 2

    def __init__(self, fault):
        self.fault = fault

    def labels(self, part):
        return np.array([0, 1, 2 if self.fault == "label" else 0])

    def images(self, part, indices):
        images = torch.zeros(len(indices), 1, 2, 2)
        if self.fault == "nan" and 2 in indices:
            images[-1, 0, 0, 0] = float("nan")
        if self.fault == "dtype":
            images = images.double()
        if self.fault == "count":
            images = torch.zeros(1, 1, 2, 2)
        if self.fault == "shape" and len(indices) > 1:
            images = torch.zeros(len(indices), 1, 3, 3)
        return images

    def files(self, part, indices):
        return None


@pytest.mark.parametrize("limit", [0, 1 << 30])
@pytest.mark.parametrize(
    "fault, message",
    [
        ("nan", "NaN or infinity in image 2"),
        ("dtype", "torch.float64, needed"),
        ("count", r"needed \(3, c, h, w\)"),
        ("shape", r"shape \(1, 3, 3\) and of \(1, 2, 2\)"),
        ("label", "the first is 2 at 2"),
    ],
)
def test_faulty_images_are_refused_by_split_and_source(fault, message, limit):
    split = draw_splits(Odd(fault), {"a": {"rest": True}}, memory_limit_bytes=limit)["a"]
    with pytest.raises(DataError, match=message) as caught:
        list(split.batches(3))
    assert "split 'a' (odd part 'all')" in str(caught.value)


def test_the_fingerprint_changes_with_images_labels_and_choice():
    def fingerprint(labels=(0, 1, 0, 1), shift=0.0, plan=None, limit=1 << 30):
        x = np.arange(16, dtype=np.float32).reshape(4, 2, 2) + shift
        source = from_arrays("toy", {"all": (x, np.array(labels))}, PLAIN)
        rule = plan or {"range": [0, 3]}
        return draw_splits(source, {"a": rule}, memory_limit_bytes=limit)["a"].fingerprint()

    assert fingerprint() == fingerprint()
    assert fingerprint() == fingerprint(limit=0)  # arrays are always hashed by content
    others = [
        fingerprint(labels=(1, 1, 0, 1)),
        fingerprint(shift=1e-6),
        fingerprint(plan={"range": [1, 4]}),
        fingerprint(plan={"range": [0, 4]}),
    ]
    assert len({fingerprint(), *others}) == 5


def test_a_streamed_fingerprint_reads_names_and_sizes_only(tmp_path):
    for name in ("a/1.jpg", "b/1.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"undecodable")

    def fingerprint(**options):
        source = load_source("imagefolder", root=tmp_path, options={"preset": "none", **options})
        split = draw_splits(source, {"a": {"rest": True}}, memory_limit_bytes=0)["a"]
        object.__setattr__(split, "image_shape", (3, 1, 1))  # known without decoding
        return split.fingerprint()

    before = fingerprint()
    assert before == fingerprint()
    assert before != fingerprint(mean=0.5)
    (tmp_path / "a/1.jpg").write_bytes(b"another size")
    assert before != fingerprint()


@pytest.mark.realdata
@pytest.mark.slow
def test_the_cifar_plan_splits_the_test_images_in_balanced_halves(real_data):
    root = real_data / "cifar10-jpeg"
    source = load_source("imagefolder", root=root, options={"preset": "cifar"})
    splits = draw_splits(
        source,
        {"search": {"part": "test", "count": 5000}, "holdout": {"part": "test", "rest": True}},
    )
    for split in splits.values():
        assert np.bincount(split.labels).tolist() == [500] * 10
    assert not np.intersect1d(splits["search"].indices, splits["holdout"].indices).size
