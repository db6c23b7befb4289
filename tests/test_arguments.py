"""Arguments of a kind that cannot be meant are refused by what came; numbers that a machine cannot
hold are refused before anything is made of them."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import moeash
from moeash.errors import InputError, SpecError
from moeash.methods.feedback.options import MAX_SKETCHES
from moeash.searches.options import MAX_POPULATION
from moeash.study.spec.reading import parse_spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": 7}, "method is 7, needed a name or a mapping"),
        ({"method": None}, "method is None, needed a name or a mapping"),
        ({"method": ["uniform"]}, r"method is \['uniform'\], needed a name or a mapping"),
        ({"spec": 7}, "spec is 7, needed nested mappings"),
        ({"spec": [("seed", 1)]}, "spec is .*, needed nested mappings"),
        ({"storage": 7}, "got int where the path of a file was needed"),
    ],
)
def test_search_names_an_argument_of_another_kind(options, message):
    with pytest.raises(InputError, match=message):
        moeash.search(nn.Linear(4, 4), evaluate=lambda module: 0.0, progress=False, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: moeash.load(f, dtype="float16"), "dtype is 'float16', needed a dtype or None"),
        (lambda f: moeash.load(f, into={}), "into is {}, needed a Module or None"),
        (lambda f: moeash.load(f, into=nn.Linear), "into is <class .*>, needed a Module or None"),
        (lambda f: moeash.read(f, max_bytes="1 GB"), "max_bytes is '1 GB', needed a whole number"),
        (lambda f: moeash.compare(7), "studies is 7, needed a list of Study"),
        (lambda f: moeash.compare("ab"), "studies is 'ab', needed a list of Study"),
        (lambda f: moeash.decompress(f, "x", force=None), "force is None, needed True or False"),
        (
            lambda f: moeash.search(nn.Linear(2, 2), evaluate="f"),
            "evaluate is 'f', needed a function",
        ),
        (
            lambda f: moeash.compress(nn.Linear(2, 2), f, max_kl=10**400),
            "max_kl is 1000.*0, needed a number or None",
        ),
        (
            lambda f: moeash.search(nn.Linear(2, 2), evaluate=id, progress=torch.ones(99, 99)),
            "progress is a Tensor, needed True or False or a function",
        ),
        (
            lambda f: moeash.open_study("x", allow_modules="mine"),
            "allow_modules is 'mine', needed a list of text",
        ),
    ],
)
def test_arguments_are_refused_by_what_came_and_what_was_needed(tmp_path, call, message):
    with pytest.raises(InputError, match=f"^{message}") as caught:
        call(tmp_path / "a.moeash")
    assert len(str(caught.value)) < 300


def test_an_argument_that_there_is_not_is_refused_in_the_words_of_python():
    with pytest.raises(TypeError, match=r"open_study\(\) got an unexpected keyword argument 'as'"):
        moeash.open_study("x", **{"as": "y"})


def test_numpys_numbers_are_numbers(tmp_path):
    moeash.compress(nn.Linear(8, 8), tmp_path / "a", candidate={"k": 4}, progress=False)
    assert moeash.read(tmp_path / "a", max_bytes=np.int64(1 << 20))
    with pytest.raises(InputError, match="max_kl is measured on inputs"):
        moeash.compress(nn.Linear(8, 8), tmp_path / "b", max_kl=np.float32(0.1), progress=False)


@pytest.mark.parametrize("candidate", [7, "k", [4], {4}, {1: 2, "k": 3}])
def test_compress_names_a_candidate_that_is_none(tmp_path, candidate):
    with pytest.raises(InputError, match=r"^candidate (is|has) "):
        moeash.compress(nn.Linear(4, 4), tmp_path / "a", candidate=candidate, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 2.5}, r"got k=2\.5, needed a number of bins"),
        ({"k": "4"}, "got k='4', needed a number of bins"),
        ({"k": True}, "got k=True, needed a number of bins"),
        ({"bits": "4"}, "got bits='4', needed a number"),
        ({"bits": True}, "got bits=True, needed a number"),
        ({"max_error": "a"}, "got max_error='a', needed a number"),
        ({"max_error": 1j}, "got max_error=1j, needed a number"),
        ({"k": 4, "include": [7]}, r"include is \[7\], needed a list of text or None"),
        ({"k": 4, "exclude": [None]}, r"exclude is \[None\], needed a list of text or None"),
    ],
)
def test_compress_checkpoint_names_an_option_of_another_kind(tmp_path, options, message):
    save_file({"w": torch.randn(8, 8)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=message):
        moeash.compress_checkpoint(
            tmp_path / "a.safetensors", tmp_path / "a.moeash", progress=False, **options
        )
    assert not (tmp_path / "a.moeash").exists()


@pytest.mark.parametrize(
    ("place", "most"),
    [
        ("search.population", MAX_POPULATION),
        ("evaluation.threads", 1024),
        ("method.sketches", MAX_SKETCHES),
    ],
)
def test_what_is_made_at_once_is_bounded(place, most):
    """A population of 10**9 took all the memory of the machine, as many threads all of its own."""
    table, key = place.split(".")
    spec = {"name": "a", "network": {"source": "lenet5"}, "method": {"name": "feedback"}}
    spec["data"] = {"source": "digits", "splits": {"search": {"part": "all", "count": 20}}}

    def parsed(value):
        return parse_spec({**spec, table: {**spec.get(table, {}), key: value}})

    assert getattr(getattr(parsed(most), table), key) == most
    with pytest.raises(SpecError, match=f"{place} is {most + 1}, needed .* at most {most:,}"):
        parsed(most + 1)


class Partly(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # there is nothing to draw
            self.none, self.out = nn.Linear(0, 3), nn.Linear(3, 0)

    def forward(self, x):
        returned = self.last(self.first(x).relu()) + self.none(x[:, :0])
        return returned + self.out(returned).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("method", "candidate"),
    [("uniform", {"k": 4}), ("gpfq", {"levels": 4}), ("feedback", {"k": 4, "rate": 0.05})],
)
def test_layers_without_a_weight_are_kept(tmp_path, method, candidate):
    path, network = tmp_path / "a.moeash", Partly()
    moeash.compress(
        network,
        path,
        candidate=candidate,
        method=method,
        calibration=None if method == "uniform" else torch.randn(40, 8),
        progress=False,
    )
    loaded = moeash.load(path, into=Partly())
    assert loaded.none.weight.shape == (3, 0) and loaded.out.weight.shape == (0, 3)
    assert torch.equal(loaded.none.bias, network.none.bias)
