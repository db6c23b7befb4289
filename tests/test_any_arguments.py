"""Whatever is given for an argument, a public function does its work or says what was needed."""

import inspect
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import moeash
import moeash.nn
from moeash.errors import MoeashError

SPEC = {
    "name": "x",
    "network": {"source": "digits-cnn"},
    "data": {
        "source": "digits",
        "splits": {"search": {"part": "all", "range": [0, 20]}},
    },
    "evaluation": {"threads": 1},
    "method": {"k": [3, 4]},
    "search": {"algorithm": "exhaustive"},
    "merge": {"trials": 0},
}


class Things:
    """Arguments that each function takes."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.folder = folder
        self.module = nn.Linear(8, 16).eval()
        self.x = torch.randn(20, 8)
        self.file = folder / "a.moeash"
        moeash.compress(self.module, self.file, candidate={"k": 4}, progress=False)
        save_file(self.module.state_dict(), folder / "a.safetensors")
        self.study = moeash.search(
            self.module,
            evaluate=self.evaluate,
            name="x",
            storage=folder / "x.db",
            generations=1,
            population=2,
            method={"k": [3, 4]},
            progress=False,
        )

    def evaluate(self, module):
        with torch.no_grad():
            return -float(module(self.x).square().mean())

    def arguments(self, name):
        quiet = {"progress": False}
        to = self.folder / "to"
        limits = {"max_kl": 1.0, "calibration": self.x}
        search = {"evaluate": self.evaluate, "generations": 1, "population": 2}
        return {
            "search": {"module": self.module, **search, "method": {"k": [3, 4]}, **quiet},
            "compress": {"module": self.module, "to": to, **limits, "force": True, **quiet},
            "export": {"study": self.study, "to": to, "pick": "best", "force": True, **quiet},
            "load": {"path": self.file, "into": nn.Linear(8, 16)},
            "read": {"path": self.file},
            "inspect": {"path": self.file},
            "verify": {"path": self.file},
            "decompress": {"path": self.file, "to": to, "force": True},
            "compress_checkpoint": {
                "path": self.folder / "a.safetensors",
                "to": to,
                "k": 4,
                "force": True,
                **quiet,
            },
            "compress_spec": {"spec": SPEC, "to": to, "max_bytes": 10**6, "force": True, **quiet},
            "run": {"spec": SPEC, "storage": self.folder / "run.db", **quiet},
            "open_study": {"name": "x", "storage": self.folder / "x.db"},
            "open_storage": {"storage": self.folder / "x.db"},
            "compare": {"studies": [self.study, self.study]},
            "nn.compress_": {"module": nn.Linear(8, 16).eval(), "source": self.file},
            "nn.memory": {"module": self.module},
        }[name]


FUNCTIONS = {
    name: getattr(moeash.nn, name[3:]) if name.startswith("nn.") else getattr(moeash, name)
    for name in (
        *("search", "compress", "export", "load", "read", "inspect", "verify", "decompress"),
        *("compress_checkpoint", "compress_spec", "run", "open_study", "open_storage", "compare"),
        *("nn.compress_", "nn.memory"),
    )
}
ARGUMENTS = [
    (name, argument)
    for name, function in FUNCTIONS.items()
    for argument in inspect.signature(function).parameters
]
ODD = {
    "None": None,
    "int": 7,
    "negative": -1,
    "float": 2.5,
    "nan": float("nan"),
    "huge": 10**400,
    "text": "nonsense",
    "bytes": b"x",
    "list": [7],
    "mapping": {7: 7},
    "object": object(),
    "tensor": torch.ones(2),
    "complex": 1j,
}


OF_USERS = ("evaluate", "output", "progress")
"""Functions of a user, as which a class would be called and fail in its own words."""


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    return Things(tmp_path_factory.mktemp("things"))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_an_argument_of_another_kind_is_used_or_refused_in_words(
    things, name, argument, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    foreign = []
    for kind, value in (ODD if argument in OF_USERS else {**ODD, "class": nn.Linear}).items():
        arguments = things.arguments(name) | {argument: value}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                FUNCTIONS[name](**arguments)
            except MoeashError as error:
                if "\n" in str(error):
                    foreign.append(f"{kind}: {error}")
            except Exception as error:
                foreign.append(f"{kind}: {type(error).__name__}: {error}")
    assert not foreign, "\n".join(foreign)
