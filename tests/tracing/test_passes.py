"""Calibration passes: which BatchNorm reads a layer."""

import pytest
import torch
from torch import nn

from moeash.networks.norms import NORM_TYPES
from moeash.tracing.passes import Passes


class Behind(nn.Module):
    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 6, bias=False)
        self.norm = norm
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        y = self.fc(x)
        return self.head(self.norm(y))


def passed(network, n_batches=2):
    run = Passes(network, sketches=1, temperature=1.0, seed=0)
    batches = torch.randn(6 * n_batches, 4).split(6)
    uses = [use.use.name for use, _, _ in run.over(batches)]
    return run, uses


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(6), nn.SyncBatchNorm(6)], ids=lambda n: type(n))
def test_the_norm_behind_a_layer_is_found_whatever_its_type(norm):
    assert type(norm) in NORM_TYPES
    run, uses = passed(Behind(norm))
    assert uses == ["fc.weight", "head.weight"] * 2
    assert run.norm_of("fc.weight", 2) == "norm"
    assert run.norm_of("head.weight", 2) is None


def test_a_norm_that_reads_another_layer_too_belongs_to_neither():
    class Both(Behind):
        def forward(self, x):
            return self.head(self.norm(self.fc(x)) + self.norm(2 * self.fc(x)))

    run, _ = passed(Both(nn.BatchNorm1d(6)))
    assert run.norm_of("fc.weight", 4) is None


def test_a_norm_whose_input_is_not_the_layers_own_output_does_not_count():
    class Scaled(Behind):
        def forward(self, x):
            return self.head(self.norm(2 * self.fc(x)))

    run, _ = passed(Scaled(nn.BatchNorm1d(6)))
    assert run.norm_of("fc.weight", 2) is None
