"""Networks whose weights say nothing: all of them 0, or all of them one number, or next to none."""

import pytest
import torch
from torch import nn

import moeash
from tests.marks import slow

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))

CANDIDATES = {
    "uniform": ({"name": "uniform"}, {"k": 8}),
    "uniform through 0": ({"name": "uniform", "zero_aligned": True}, {"k": 8}),
    "gpfq": ({"name": "gpfq"}, {"levels": 4}),
    "feedback": ({"name": "feedback"}, {"k": 8, "rate": 0.05}),
    "feedback without balance": ({"name": "feedback", "balance": 0}, {"k": 8, "rate": 0.05}),
}


def network(value):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    if value is not None:
        for weight in (module[0].weight, module[2].weight):
            nn.init.constant_(weight, value)
    return module


def network_of_zeros():
    module = network(0.0)
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def closeness(module):
    with torch.no_grad():
        return -float(module(X).square().mean())


@pytest.mark.parametrize("value", [0.0, *map(slow, (-0.0, 0.25, -3e4, 1e-38)), None])
@pytest.mark.parametrize("which", CANDIDATES)
def test_equal_weights_are_stored_and_come_back(value, which, tmp_path):
    method, candidate = CANDIDATES[which]
    module, path = network(value), tmp_path / "a.moeash"
    moeash.compress(module, path, candidate=candidate, method=method, calibration=X)
    decoded = network(None)
    moeash.load(path, into=decoded)
    for name, before in module.state_dict().items():
        after = decoded.state_dict()[name]
        assert after.isfinite().all(), name
        if value == 0 and name.endswith("weight"):
            assert (after == 0).all(), name
        if value is not None and name.endswith("weight") and which.startswith("uniform"):
            # Half a step of a grid of 8 bins from 0 to the value, at most.
            assert (after - before).abs().max() <= abs(value) / 16 * 1.001, name
    with torch.no_grad():
        before, after = (torch.softmax(m(X), 1) for m in (module, decoded))
    assert (after - before).abs().max() <= 0.1


@pytest.mark.parametrize("name", ["uniform", "gpfq", "feedback"])
def test_a_network_of_zeros_is_searched(name, tmp_path):
    module = network_of_zeros()
    study = moeash.search(
        module,
        evaluate=closeness,
        method=name,
        calibration=None if name == "uniform" else X,
        population=4,
        generations=2,
        storage=tmp_path / "moeash.db",
        progress=False,
    )
    assert all(evaluation.outcome.status == "complete" for evaluation in study.evaluations())
    moeash.export(study, tmp_path / "b.moeash", pick="smallest", progress=False)
    decoded = network(None)
    moeash.load(tmp_path / "b.moeash", into=decoded)
    assert not any(tensor.any() for tensor in decoded.state_dict().values())


def test_one_file_of_a_network_of_zeros_for_a_goal_loses_nothing(tmp_path):
    report = moeash.compress(network_of_zeros(), tmp_path / "a.moeash", max_kl=0.01, calibration=X)
    assert str(report.search.divergence) == "0.0"  # not minus 0
