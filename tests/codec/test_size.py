import dataclasses

import numpy as np
import pytest

from moeash.codec import container
from moeash.codec.size import size
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, TiedTensor
from tests.entropy import entropy_bits


@pytest.mark.parametrize("coder", ["ans", "huffman", "adaptive"])
def test_parts_sum_to_the_total_and_the_total_is_the_file(zoo, layers, coder):
    kept_only = SharedWeights((), zoo.kept)
    for shared in (zoo, layers([5000, 300, 1, 20_000], 60), kept_only, SharedWeights((), ())):
        report = size(shared, coder=coder)
        parts = (
            report.header,
            report.codebooks,
            report.tables,
            report.indices,
            report.kept,
            report.checksum,
        )
        assert sum(parts) == report.total == len(container.encode(shared, coder=coder))
        assert min(parts) >= 0
        assert report.n_shared or report.indices == 0


def test_no_index_is_read():
    class Unreadable(np.ndarray):
        def __array_finalize__(self, _):
            pass

        def __getitem__(self, _):
            raise AssertionError("an index was read")

    indices = np.zeros(3, dtype=np.uint8).view(Unreadable)
    indices.flags.writeable = False
    counts = np.array([1, 2])
    book = Codebook(np.array([0.0, 1.0]))
    real = np.array([0, 1, 1], dtype=np.uint8)
    unread = SharedWeights((book,), (SharedTensor("w", (3,), "float32", 0, indices, counts),))
    read = SharedWeights((book,), (SharedTensor("w", (3,), "float32", 0, real, counts),))
    assert size(unread).total == len(container.encode(read))


def test_the_order_of_weights_does_not_change_the_size(layers):
    shared = layers([4000, 3000], 41)
    shuffled = SharedWeights(
        shared.codebooks,
        tuple(
            dataclasses.replace(t, indices=np.random.default_rng(1).permutation(t.indices))
            for t in shared.shared
        ),
    )
    assert size(shuffled).total == len(container.encode(shuffled)) == size(shared).total


def test_tensors_are_listed_with_their_tables_and_bits(layers):
    shared = layers([50_000, 40, 30_000], 41)
    report = size(shared)
    assert [t.name for t in report.tensors] == [t.name for t in shared.shared]
    assert report.tensors[0].table == "own"
    for row, tensor in zip(report.tensors, shared.shared, strict=True):
        assert row.bits >= entropy_bits(tensor.counts) * (1 - 1e-6)
        assert row.bits_per_weight == pytest.approx(row.size_bytes * 8 / tensor.size)
    listed = sum(t.bits for t in report.tensors) / 8
    assert listed <= report.tables + report.indices + 1
    expected = 8 * (report.tables + report.indices) / shared.n_shared
    assert report.bits_per_weight == expected


def test_per_tensor_tables_beat_the_best_single_code(layers):
    shared = layers([40_000] * 5, 41)
    report = size(shared)
    single = entropy_bits(np.sum([t.counts for t in shared.shared], axis=0)) / 8
    assert report.indices + report.tables < 0.95 * single


def test_kept_tensors_are_counted_and_never_cost_more_than_their_bytes():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2**32, 5000, dtype=np.uint32)
    scale = np.abs(rng.normal(1, 0.1, 5000)).astype(np.float32)

    def report(values):
        return size(SharedWeights((), (KeptTensor("w", values.shape, values.dtype.name, values),)))

    assert 20_000 <= report(noise).kept <= 20_010
    assert 10_000 < report(scale).kept < 18_500
    assert report(np.zeros(5000, dtype=np.float32)).kept < 10


def test_what_is_remembered_between_candidates_is_told_apart():
    # Same names, shapes and dtypes, other values: remembered plans must not be mixed up.
    first = KeptTensor("w", (4000,), "float32", np.zeros(4000, dtype=np.float32))
    second = dataclasses.replace(first, values=np.arange(4000, dtype=np.float32))
    renamed = dataclasses.replace(second, name="a.very_different_name")
    other = dataclasses.replace(second, name="v")
    for tensor in (first, second, renamed, first):
        shared = SharedWeights((), (tensor,))
        assert size(shared).total == len(container.encode(shared))
    tied = TiedTensor("t", "w")
    for tensors in ((first, other, tied), (first, tied, other)):
        shared = SharedWeights((), tensors)
        assert size(shared).total == len(container.encode(shared))


def test_rows_show_full_names_and_of_many_the_first_few():
    def kept(name):
        return KeptTensor(name, (3,), "float32", np.arange(3, dtype=np.float32))

    names = ["fc.bias", *(f"layer{i}.bn.bias" for i in range(5)), "fc.scale", "head.scale"]
    report = size(SharedWeights((), tuple(map(kept, names))))
    assert [row.names for row in report.tensors] == [tuple(names[:6]), tuple(names[6:])]
    assert [row.name for row in report.tensors] == [
        "fc.bias, layer0.bn.bias, layer1.bn.bias and 3 more",
        "fc.scale, head.scale",
    ]


def test_entries_that_no_weight_uses_take_bytes_and_are_not_counted(one_tensor):
    assert size(one_tensor([0, 2, 2, 4], 5)).n_entries == 3
    assert size(one_tensor([0, 2, 2, 4], 9)).codebooks > size(one_tensor([0, 2, 2, 4], 5)).codebooks


def test_the_entropy_is_of_all_weights_together_zeros_among_them(layers, one_tensor):
    # Four of eight weights are 0: 4/8 at 1 bit, 2/8 at 2, 2/8 at 2.
    report = size(one_tensor([2, 2, 2, 2, 0, 0, 4, 4], 5))
    assert report.entropy == pytest.approx(1.5, abs=1e-15)
    shared = layers([40_000] * 5, 41)
    together = entropy_bits(np.sum([t.counts for t in shared.shared], axis=0))
    assert size(shared).entropy == pytest.approx(together / shared.n_shared, rel=1e-12)
    assert size(shared).bits_per_weight < size(shared).entropy, "tables follow the layers"


def test_equal_indices_of_two_codebooks_are_two_symbols():
    books = [Codebook([0.0, 1.0]), Codebook([0.0, 2.0])]
    indices = np.array([0, 0, 1, 1], dtype=np.uint8)
    tensors = [
        SharedTensor(name, (4,), "float32", book, indices, np.bincount(indices))
        for book, name in enumerate(("first", "second"))
    ]
    assert size(SharedWeights(tuple(books), tuple(tensors))).entropy == 2
    assert size(SharedWeights(tuple(books[:1]), (tensors[0],))).entropy == 1


def test_one_entry_and_no_weight_at_all_have_no_entropy(one_tensor):
    assert size(one_tensor([3, 3, 3], 5)).entropy == 0
    assert size(SharedWeights((), ())).entropy == 0
