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
        ([X[:2], X[:2, :1]], r"\(1, 4\) and \(2, 4\)"),
        (X.clone().fill_(float("nan")), "NaN or infinity"),
    ],
)
def test_what_is_no_calibration_is_refused_with_the_reason(given, message):
    with pytest.raises(DataError, match=message):
        Unlabelled(given, at_most=10)
