"""A whole study whose network needs more bins than any search begins with."""

import pytest
import torch
from torch import nn

import moeash

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def module():
    """A layer of many weights, and one whose few weights make the bins of all wide."""
    torch.manual_seed(2)
    module = nn.Sequential(nn.Linear(60, 30), nn.Linear(30, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.randn(30, 60))
        module[1].weight.mul_(120 / module[1].weight.abs().max())
    return module.eval()


@pytest.fixture(scope="module")
def closeness(module):
    x = torch.randn(200, 60)
    with torch.no_grad():
        wanted = module(x)

    def measure(other):
        with torch.no_grad():
            return 1.0 - float((other(x) - wanted).square().mean() / wanted.square().mean()) ** 0.5

    return measure


def search(module, closeness, place, generations, listen=False, **spec):
    return moeash.search(
        module,
        evaluate=closeness,
        population=8,
        generations=generations,
        storage=str(place),
        progress=listen,
        spec={"merge": {"trials": 0}, **spec},
    )


def told(study):
    return [(r.number, r.generation, r.recipe, r.outcome.metric) for r in study.evaluations()]


def test_a_study_goes_on_beyond_the_range_it_began_with(module, closeness, tmp_path):
    heard = []
    study = search(module, closeness, tmp_path / "a.db", 6, heard.append)
    (k,) = study.facts.variables
    tried = [int(r.candidate["k"]) for r in study.evaluations()]
    assert k.high < max(tried) <= k.widest
    best = max(study.solutions(), key=lambda s: s.metric)
    assert best.recipe.candidate["k"] > k.high
    notes = [event.text for event in heard if event.kind == "note"]
    assert any(f"goes on to k = {2 * k.high:,}" in note for note in notes)


def test_a_continued_study_is_the_one_that_was_not_interrupted(module, closeness, tmp_path):
    whole = search(module, closeness, tmp_path / "whole.db", 5)
    heard = []
    search(module, closeness, tmp_path / "parts.db", 1, heard.append)
    notes = [event.text for event in heard if event.kind == "note"]
    assert any("the front ends at a bound" in n and "let it run longer" in n for n in notes)
    for generations in (3, 5):
        study = search(module, closeness, tmp_path / "parts.db", generations)
    assert told(study) == told(whole)
    assert study.facts.variables == whole.facts.variables


def test_a_range_that_was_given_holds(module, closeness, tmp_path):
    method = {"name": "uniform", "k": [2, 16]}
    heard = []
    study = search(module, closeness, tmp_path / "a.db", 3, heard.append, method=method)
    assert max(int(r.candidate["k"]) for r in study.evaluations()) == 16
    notes = [event.text for event in heard if event.kind == "note"]
    assert any("k = 16, the highest allowed; a wider range may find better" in n for n in notes)
