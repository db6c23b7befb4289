"""A network with one of everything that feedback treats in a way of its own."""

import copy

import torch
from torch import nn


class Net(nn.Module):
    """A biased and an unbiased convolution before BatchNorms, one without, a head, an embedding."""

    def __init__(self, leak=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 16, 3, padding=1, groups=2, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 24, 1, bias=False)
        self.head = nn.Linear(24, 10)
        self.table = nn.Embedding(3, 10)
        self.leak = leak
        for norm in (self.norm1, self.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.2, 3)
            norm.weight.data.uniform_(0.2, 2)

    def forward(self, x):
        x = torch.relu(self.norm1(self.stem(x)))
        y = self.mix(x)
        x = torch.relu(self.norm2(y)) + self.leak * y
        return self.head(torch.relu(self.point(x)).mean((2, 3))) + self.table.weight[1]


def images(n=64, seed=0):
    return torch.randn(n, 2, 8, 8, generator=torch.Generator().manual_seed(seed)) + 0.5


def outputs(network, values, x):
    twin = copy.deepcopy(network).eval()
    twin.load_state_dict(twin.state_dict() | values)
    with torch.no_grad():
        return twin(x)
