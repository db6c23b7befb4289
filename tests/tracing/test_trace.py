"""A run as data: who read what, and what it made."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moeash.tracing.trace import trace


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = F.relu_(self.norm(self.conv(x)))
        assert y.size(0) == len(x)
        return self.head(y.mean((2, 3)))


@pytest.fixture
def run():
    return trace(Net().train(), torch.ones(2, 1, 5, 5))


def names(run):
    return [operation.name for operation in run.operations]


def test_operations_stand_in_order_without_those_that_look_at_forms(run):
    assert names(run) == ["conv2d", "batch_norm", "relu_", "mean", "linear"]


def test_arguments_of_layers_and_norms_are_known_by_the_networks_names(run):
    conv, norm, *_, head = run.operations
    assert run.name_of(conv, "weight") == "conv.weight"
    assert run.name_of(head, "bias") == "head.bias"
    assert run.name_of(norm, "running_var") == "norm.running_var"
    assert run.name_of(conv, "running_mean") is None


def test_what_one_operation_makes_is_what_the_next_reads(run):
    conv, norm, relu, mean, head = run.operations
    assert norm.arguments["input"] == conv.makes[0]
    assert relu.makes == relu.reads == norm.makes  # in place: the same tensor
    assert mean.first == relu.makes[0]
    assert run.returned == head.makes
    assert run.shapes[conv.makes[0]] == (2, 4, 3, 3)


def test_reads_are_counted_with_the_return_and_by_name(run):
    conv, norm, *_, head = run.operations
    assert run.reads[conv.makes[0]] == 1
    assert run.reads[norm.makes[0]] == 2  # by relu_ and by mean
    assert run.reads[head.makes[0]] == 1  # returned
    assert run.reads_of["conv.weight"] == run.reads_of["norm.running_mean"] == 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return {"out": [self.b(self.a(x))]}


def test_tied_tensors_have_their_first_name_and_outputs_are_found_in_containers():
    run = trace(Tied(), torch.ones(1, 3))
    assert run.reads_of == {"a.weight": 2}
    assert run.returned == run.operations[-1].makes
    assert run.outputs[0].shape == (1, 3)


def test_nothing_of_the_run_is_held():
    class Watched(Tied):
        def forward(self, x):
            y = self.a(x)
            self.inner = weakref.ref(y)
            return self.b(y)

    network = Watched()
    run = trace(network, torch.ones(1, 3))
    gc.collect()
    assert network.inner() is None
    assert len(run.operations) == 2


def test_numbers_of_tensors_that_are_gone_are_not_given_again():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            for _ in range(50):
                torch.sin(x)  # its result is freed at once, and its memory and id come again
            return x * self.scale

    run = trace(Many(), torch.ones(4))
    made = [operation.makes[0] for operation in run.operations]
    assert len(set(made)) == len(made) == 51


def test_a_run_leaves_modes_and_statistics_as_they_were():
    network = Net().train()
    trace(network, torch.randn(2, 1, 5, 5))
    assert network.training and network.norm.training
    assert not network.norm.running_mean.any()


def test_attention_reads_its_input_once_a_projection():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.attention = nn.MultiheadAttention(4, 2)

        def forward(self, x):
            y = self.fc(x)
            return self.attention(y, y, y)[0]

    run = trace(Attending(), torch.ones(5, 2, 4))
    made = run.operations[0].makes[0]
    assert run.operations[0].name == "linear"
    assert run.reads[made] == 3
    assert run.reads_of["attention.in_proj_weight"] == 1
    assert run.reads_of["attention.out_proj.weight"] == 1
