"""Modules that are no classifiers of the study's own data, and how they are searched."""

import torch
from torch import nn
from torchvision.models import VisionTransformer

import moeash
from tests.digits import merged

HUFFMAN = {"codec": {"coder": "huffman"}}
FEEDBACK = {"name": "feedback", "k": [8, 40], "images": 50, "sketches": 1}


class Regressor(nn.Module):
    """Not a classifier: a fixed random map, in training mode, on BatchNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.Linear(20, 3))
        self.x = torch.randn(64, 6)

    def forward(self, x):
        return self.net(x)


def likeness():
    """Return a module and how close it stays to what it was, 1 at best."""
    module = Regressor().train()
    with torch.no_grad():
        reference = module.eval()(module.x)
    module.train()

    def closeness(module):
        with torch.no_grad():
            return 1 - float((module(module.x) - reference).square().mean() / reference.var())

    return module, closeness


def search(module, evaluate, *, spec=None, **options):
    options = {"method": {"name": "uniform", "k": [2, 40]}, "population": 5, **options}
    spec = merged({"merge": {"trials": 2}}, spec or {})
    return moeash.search(module, evaluate=evaluate, generations=2, spec=spec, **options)


def transformer():
    """A classifier with attention and what it is measured with: agreement with itself."""
    torch.manual_seed(0)
    network = VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=4).eval()
    torch.nn.init.normal_(network.heads.head.weight, std=0.1)  # torchvision begins with zeros
    x = torch.randn(100, 3, 16, 16)
    with torch.no_grad():
        expected = network(x).softmax(1)

    def closeness(module):
        with torch.inference_mode():
            return -float((module(x).softmax(1) - expected).square().mean())

    return network, x, closeness


def codec(kept="float16", norms="two_vectors"):
    return {"codec": {"kept": kept, "norms": norms}}
