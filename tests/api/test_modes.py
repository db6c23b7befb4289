"""Modules and calls in torch's modes: made in inference mode, or searched in one."""

import copy

import pytest
import torch
from torch import nn

import moeash
from moeash.errors import InputError
from tests.marks import slow

X = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.fc = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.eval()

    def forward(self, x):
        return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))


def made_in_inference_mode():
    with torch.inference_mode():
        return Net()


with torch.no_grad():
    EXPECTED = Net()(X)


def closeness(module):
    with torch.no_grad():
        return -float((module(X) - EXPECTED).square().mean())


TRAINED = {"delta": [0.1, 1], "epochs": 1, "fractions": [0.5, 1]}


def searched(module, name):
    return moeash.search(
        module,
        evaluate=closeness,
        method={"name": name, **(TRAINED if "wfn" in name else {})},
        calibration=None if name == "uniform" else X,
        population=2,
        generations=1,
        spec={"merge": {"trials": 0}, "training": {"batch_size": 8}},
        progress=False,
    )


@pytest.mark.parametrize("method", ["uniform", "gpfq"])
def test_a_module_made_in_inference_mode_is_searched_exported_and_loaded(method, tmp_path):
    study = searched(made_in_inference_mode(), method)
    path = tmp_path / "a.moeash"
    moeash.export(study, path, pick="best", progress=False)
    for module in (Net(), made_in_inference_mode()):
        assert closeness(moeash.load(path, into=module)) == pytest.approx(study.pick("best").metric)


@pytest.mark.slow
def test_feedback_names_a_tensor_without_derivatives_and_the_copy_it_advises_works(tmp_path):
    module, path = made_in_inference_mode(), tmp_path / "a.moeash"
    how = {"candidate": {"k": 9, "rate": 0.01}, "method": "feedback", "calibration": X}
    with pytest.raises(InputError, match=r"'conv.weight' was made in torch.inference_mode\(\)"):
        moeash.compress(module, path, progress=False, **how)
    moeash.compress(copy.deepcopy(module), path, progress=False, **how)
    assert path.exists()


@pytest.mark.parametrize("mode", [torch.inference_mode, slow(torch.no_grad)])
@pytest.mark.parametrize("method", ["feedback", "wfn"])
def test_what_needs_derivatives_takes_them_whatever_mode_the_caller_is_in(method, mode):
    here, there = searched(Net(), method), Net()
    with mode():
        found = searched(there, method)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    values = [[(s.size_bytes, s.metric) for s in study.front()] for study in (here, found)]
    assert values[0] == values[1]
