"""One file of a module for a goal, measured on inputs without labels."""

import pytest
import torch
from torch import nn

import moeash
from moeash.errors import EvaluationError, InputError, NothingMeetsError
from moeash.networks.loading.sources import load_network


@pytest.fixture(scope="module")
def network():
    return load_network("digits-cnn").eval()


@pytest.fixture(scope="module")
def inputs():
    torch.manual_seed(0)
    return torch.rand(200, 1, 8, 8)


def divergence(network, other, inputs):
    with torch.no_grad():
        exact, found = (m(inputs).double().log_softmax(1) for m in (network, other))
    return float((exact.exp() * (exact - found)).sum(1).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "limit",
    [{"max_kl": 0.02}, {"max_drop": 0.05}, {"max_bytes": 20_000}],
    ids=lambda limit: next(iter(limit)),
)
def test_a_file_for_a_goal_is_what_somebody_measures_who_loads_it(tmp_path, network, inputs, limit):
    path, before = tmp_path / "x.moeash", {n: t.clone() for n, t in network.state_dict().items()}
    report = moeash.compress(network, path, calibration=inputs, progress=False, **limit)
    other = moeash.load(path, into=load_network("digits-cnn").eval())
    found = divergence(network, other, inputs)
    assert report.search.divergence == pytest.approx(found, rel=1e-3, abs=1e-6)
    with torch.no_grad():
        same = (network(inputs).argmax(1) == other(inputs).argmax(1)).float().mean()
    assert report.search.metric == pytest.approx(float(same))
    assert report.search.metric_name == "agreement" and report.holdout is None
    assert report.size_bytes == path.stat().st_size
    if "max_kl" in limit:
        assert found <= 0.02
    elif "max_drop" in limit:
        assert 1 - float(same) <= 0.05
    else:
        assert report.size_bytes <= 20_000
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.slow
def test_a_larger_limit_gives_a_smaller_file(tmp_path, network, inputs):
    sizes = [
        moeash.compress(
            network, tmp_path / f"{kl}", calibration=inputs, max_kl=kl, progress=False
        ).size_bytes
        for kl in (0.005, 0.2)
    ]
    assert sizes[0] > sizes[1]


class Tokens(nn.Module):
    """A language model's shape: ``(n, length)`` integers to ``(n, length, n_classes)``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 50)

    def forward(self, ids):
        return {"logits": self.head(self.embedding(ids)), "ids": ids}


@pytest.mark.slow
def test_every_token_counts_and_output_names_what_does(tmp_path):
    network, ids = Tokens().eval(), torch.randint(0, 50, (20, 7))
    report = moeash.compress(
        network,
        tmp_path / "x.moeash",
        calibration=ids,
        output=lambda returned: returned["logits"],
        max_kl=0.01,
        progress=False,
    )
    assert report.search.n_images == 140
    assert report.search.divergence <= 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got none of candidate, max_kl"),
        ({"max_kl": 0.1, "max_bytes": 9}, "got max_kl, max_bytes of"),
        ({"candidate": {"k": 4}, "max_kl": 0.1}, "got candidate, max_kl of"),
        ({"max_kl": 0.1, "calibration": None}, "max_kl is measured on inputs; give calibration="),
        ({"max_kl": 0.1, "refined": True}, "leave out refined"),
        ({"max_kl": -1}, "needed a number above 0"),
        ({"max_bytes": 0}, "needed 1 or more"),
        ({"max_kl": 0.1, "method": "wfn"}, "wfn trains every candidate"),
    ],
)
def test_what_says_no_goal_or_more_than_one_is_refused(tmp_path, network, inputs, options, message):
    given = {"calibration": inputs} | options
    with pytest.raises(InputError, match=message):
        moeash.compress(network, tmp_path / "x.moeash", progress=False, **given)
    assert not list(tmp_path.iterdir())


def test_a_goal_nothing_meets_writes_nothing_and_leaves_the_module_as_it_was(
    tmp_path, network, inputs
):
    before = {n: t.clone() for n, t in network.state_dict().items()}
    with pytest.raises(NothingMeetsError, match="allow more"):
        moeash.compress(network, tmp_path / "x", calibration=inputs, max_bytes=50, progress=False)
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


def test_a_network_without_classes_is_told_what_is_needed(tmp_path):
    network = nn.Sequential(nn.Linear(16, 1), nn.Flatten(0))
    with pytest.raises(EvaluationError, match=r"needed \(n, ..., n_classes\)"):
        moeash.compress(
            network, tmp_path / "x", calibration=torch.rand(9, 16), max_kl=0.1, progress=False
        )


@pytest.mark.slow
def test_a_file_that_exists_is_refused_before_anything_is_done_unless_forced(
    tmp_path, network, inputs
):
    path = tmp_path / "x.moeash"
    path.write_bytes(b"old")
    for options in ({"candidate": {"k": 8}}, {"max_kl": 0.5, "calibration": inputs}):
        with pytest.raises(InputError, match="exists; choose another name, or replace it with"):
            moeash.compress(network, path, progress=False, **options)
        assert path.read_bytes() == b"old"
        moeash.compress(network, path, force=True, progress=False, **options)
        assert moeash.verify(path)
        path.write_bytes(b"old")


def test_decompressing_onto_a_file_that_exists_is_refused_unless_forced(tmp_path, network):
    path, target = tmp_path / "x.moeash", tmp_path / "x.safetensors"
    moeash.compress(network, path, candidate={"k": 8}, progress=False)
    target.write_bytes(b"old")
    for to in (target, tmp_path / "x.pt"):
        to.write_bytes(b"old")
        with pytest.raises(InputError, match="exists; choose another name"):
            moeash.decompress(path, to)
        assert to.read_bytes() == b"old"
        moeash.decompress(path, to, force=True)
        assert to.stat().st_size > 1000
