import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from moeash.data.unlabelled import Unlabelled
from moeash.errors import DataError

X = torch.randn(23, 2, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(23)


class Bare(Dataset):
    """A dataset of inputs without labels."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i]


class Stream(IterableDataset):
    """Never ends, and says when it was asked for too much."""

    def __iter__(self):
        for start in range(0, 20, 5):
            yield X[start : start + 5], Y[start : start + 5]
        raise AssertionError("asked for more than was needed")


GIVEN = {
    "tensor": lambda: X,
    "dataset": lambda: TensorDataset(X, Y),
    "dataset without labels": lambda: Bare(),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=4),
    "list of batches": lambda: list(X.split(7)),
    "generator of pairs": lambda: ((x, y) for x, y in zip(X.split(5), Y.split(5), strict=True)),
    "endless stream": lambda: Stream(),
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_first_inputs_are_taken_however_they_are_given(name):
    inputs = Unlabelled(GIVEN[name](), at_most=17)
    assert len(inputs) == 17
    batches = [x for x, _ in inputs.batches(6)]
    assert [len(x) for x in batches] == [6, 6, 5]
    assert torch.equal(torch.cat(batches), X[:17])
    ((some, labels),) = inputs.batches(6, order=np.array([3, 1]))
    assert torch.equal(some, X[[3, 1]])
    assert labels.tolist() == [-1, -1]


def test_fewer_than_asked_for_are_all():
    assert len(Unlabelled(X, at_most=100)) == 23


def test_a_fingerprint_follows_the_inputs():
    one = Unlabelled(X, at_most=10).fingerprint()
    assert Unlabelled(list(X.split(3)), at_most=10).fingerprint() == one
    assert Unlabelled(X, at_most=11).fingerprint() != one
    assert Unlabelled(X.transpose(1, 2), at_most=10).fingerprint() != one
    assert Unlabelled(X.double(), at_most=10).fingerprint() != one


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (X[:0], "no inputs"),
        ([], "no inputs"),
        (7, "calibration is int"),
        (["images/"], "gave str"),
        ([X[:2], X[:2, :1]], r"\(2, 4\) and \(1, 4\)"),
        (X.clone().fill_(float("nan")), "NaN or infinity"),
    ],
)
def test_what_is_no_calibration_is_refused_with_the_reason(given, message):
    with pytest.raises(DataError, match=message):
        Unlabelled(given, at_most=10)


class Two(torch.nn.Module):
    def forward(self, a, b):
        return a, b


class Optional(torch.nn.Module):
    def forward(self, a, mask=None, flag=False):
        return a


class Any(torch.nn.Module):
    def forward(self, *args):
        return args


MASK = torch.ones(23, 4)


def arguments(given, network, at_most=17):
    inputs = Unlabelled(given, at_most=at_most, network=network)
    ((batch, _),) = inputs.batches(at_most)
    return batch


@pytest.mark.parametrize(
    "given",
    [
        lambda: [(X, MASK)],
        lambda: list(zip(X.split(5), MASK.split(5), strict=True)),
        lambda: zip(X.split(5), MASK.split(5), Y.split(5), strict=True),
        lambda: DataLoader(TensorDataset(X, MASK, Y), batch_size=4),
        lambda: TensorDataset(X, MASK, Y),
        lambda: [((X, MASK), Y)],
        lambda: [([X, MASK],)],
    ],
)
def test_a_network_of_two_arguments_gets_both_and_no_label(given):
    batch = arguments(given(), Two())
    assert [torch.equal(a, b[:17]) for a, b in zip(batch.args, (X, MASK), strict=True)] == [
        True
    ] * 2
    assert not batch.kwargs


@pytest.mark.parametrize(
    "given",
    [
        lambda: {"a": X, "mask": MASK, "flag": True},
        lambda: [
            {"a": a, "mask": m, "flag": True}
            for a, m in zip(X.split(5), MASK.split(5), strict=True)
        ],
        lambda: [({"a": X, "mask": MASK, "flag": True}, Y)],
    ],
)
def test_arguments_by_name_reach_the_network_by_name(given):
    batch = arguments(given(), Optional())
    assert not batch.args and len(batch) == 17 and batch.kwargs["flag"] is True
    assert torch.equal(batch.kwargs["mask"], MASK[:17])
    assert torch.equal(batch[3:5].kwargs["a"], X[3:5])


@pytest.mark.parametrize("network", [Optional(), Any(), torch.nn.DataParallel(Optional())])
def test_what_may_be_an_argument_or_a_label_is_asked_for_instead_of_guessed(network):
    with pytest.raises(DataError, match=r"2 items at a time.*forward\(.*mappings by name"):
        arguments([(X, Y)], network)
    assert torch.equal(arguments([((X,), Y)], network), X[:17])


def test_wrappers_are_asked_for_what_they_wrap():
    network = torch.nn.DataParallel(Two())
    assert len(arguments([(X, MASK, Y)], network).args) == 2
    assert torch.equal(arguments([(X, Y)], torch.nn.DataParallel(torch.nn.ReLU())), X[:17])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((X, MASK), "tuple of 2 tensors.*batches or arguments"),
        ([(X, MASK[:3])], r"different numbers of inputs: 0: \(23, 2, 4\), 1: \(3, 4\); expand"),
        ([(X, MASK.numpy())], "ndarray.*as_tensor"),
        ([(X, MASK), (X, MASK[:, :2])], r"differ in shape: \(4,\) and \(2,\); pad"),
        ([(X, MASK), {"a": X, "b": MASK}], r"differ in their arguments: \['0', '1'\]"),
        ([(X, 1), (X, 2)], "argument '1' of calibration is not the same in all batches: 1 and 2"),
        ([X[:2], X[:2].double()], "differ in dtype"),
        ([(X, MASK.clone().fill_(float("nan")))], "argument '1' of calibration holds NaN"),
        ({}, "gave nothing"),
    ],
)
def test_what_are_no_arguments_is_refused_with_the_way_out(given, message):
    with pytest.raises(DataError, match=message):
        arguments(given, Two(), at_most=100)


def test_a_mask_may_be_infinite_and_a_fingerprint_follows_every_argument():
    def fingerprint(**given):
        return Unlabelled(given, at_most=9, network=Two()).fingerprint()

    one = fingerprint(a=X, b=MASK)
    assert fingerprint(a=X, b=MASK) == one
    others = [fingerprint(a=X, b=MASK * -float("inf")), fingerprint(a=X, c=MASK)]
    assert len({one, *others, fingerprint(a=X, b=MASK, flag=True)}) == 4
