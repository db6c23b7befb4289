"""Watching a run, and ending it where it has shown what it was for."""

import pytest
import torch
from torch import nn

from moeash.tracing.watching import Watcher, in_eval_mode

X = torch.ones(3)


class Stubborn(nn.Module):
    """Computes in three steps and takes what it can for an error of the second."""

    def __init__(self, caught):
        super().__init__()
        self.caught = caught
        self.steps = []

    def forward(self, x):
        self.steps.append("sin")
        x = torch.sin(x)
        try:
            self.steps.append("cos")
            x = torch.cos(x)
        except self.caught:
            self.steps.append("caught")
        self.steps.append("tan")
        x = torch.tan(x)
        self.steps.append("end")
        return x


def watcher_until(name):
    seen = []

    def after(call):
        seen.append(call.name)
        if call.name == name:
            watcher.end()

    watcher = Watcher(after=after)
    return watcher, seen


def test_a_pass_ends_where_its_watcher_says():
    network = Stubborn(ValueError)
    watcher, seen = watcher_until("cos")
    with watcher:
        network(X)
    assert seen == ["sin", "cos"]
    assert network.steps == ["sin", "cos"]


def test_a_network_that_catches_every_exception_does_not_catch_the_end_of_a_pass():
    network = Stubborn(Exception)
    watcher, _ = watcher_until("cos")
    with watcher:
        network(X)
    assert network.steps == ["sin", "cos"]


def test_a_network_that_catches_anything_at_all_gets_no_further_than_the_next_function():
    network = Stubborn(BaseException)
    watcher, seen = watcher_until("cos")
    with watcher:
        network(X)
    assert seen == ["sin", "cos"]
    assert network.steps == ["sin", "cos", "caught", "tan"]


def test_a_watcher_can_be_used_again_after_it_ended_a_pass():
    network = Stubborn(ValueError)
    watcher, seen = watcher_until("cos")
    for _ in range(2):
        with watcher:
            network(X)
    assert seen == ["sin", "cos"] * 2


def test_an_inner_watcher_does_not_swallow_the_end_of_an_outer_pass():
    network = Stubborn(ValueError)
    outer, _ = watcher_until("cos")
    inner = Watcher()
    reached = []
    with outer:
        with inner:
            network(X)
        reached.append("between")
    assert reached == [] and network.steps == ["sin", "cos"]


def test_errors_of_the_network_come_through():
    def fail(x):
        raise KeyError("its own")

    watcher, _ = watcher_until("cos")
    with pytest.raises(KeyError, match="its own"), watcher:
        fail(torch.sin(torch.ones(3)))


def test_before_is_called_while_arguments_can_still_be_changed():
    def before(call):
        if call.name == "mul":
            call.args[0].add_(1)

    x = torch.ones(3)
    with Watcher(before=before):
        y = torch.mul(x, 3)
    assert torch.equal(y, torch.full((3,), 6.0))


def test_modes_come_back_one_by_one_even_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    network[1].eval()
    with pytest.raises(RuntimeError), in_eval_mode(network):
        assert not network[0].training
        raise RuntimeError
    assert network.training and network[0].training and not network[1].training
