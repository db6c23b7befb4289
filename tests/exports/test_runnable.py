"""Networks that hold what nobody can copy, and formats that need one of their own."""

import threading

import pytest
import torch
from torch import nn

import moeash
from moeash.errors import InputError


class Locked(nn.Sequential):
    """A network with a lock in it, as loggers and caches bring one."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 10))
        self.lock = threading.Lock()


def test_a_network_given_in_python_that_cannot_be_copied_is_refused_with_ways_out(tmp_path):
    pytest.importorskip("onnx")
    network = Locked().eval()
    study = moeash.search(
        network,
        evaluate=lambda module: -float(module[1].weight.detach().square().sum()),
        generations=1,
        population=4,
        progress=False,
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(InputError, match=r"cannot be copied .*lock.*__deepcopy__.*network\.source"):
        moeash.export(study, tmp_path / "x.onnx", inputs=torch.randn(3, 64), progress=False)
    assert not list(tmp_path.iterdir())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


SPEC = """
name = "locked"
network.source = "locked_networks:make"
data = {source = "digits", splits = {search = {part = "all", range = [0, 40]}}}
evaluation.threads = 1
method.k = [8, 9]
search.algorithm = "exhaustive"
merge.trials = 0
"""


@pytest.mark.slow
def test_a_network_that_a_function_makes_is_made_anew_and_not_copied(tmp_path, monkeypatch, moeash):
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "locked_networks.py").write_text(
        "import torch\nfrom tests.exports.test_runnable import Locked\n"
        "def make():\n    torch.manual_seed(0)\n    return Locked()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "x.toml").write_text(SPEC)
    assert moeash("run", "x.toml").code == 0
    answer = moeash("export", "locked", "--to", "x.onnx", "--spec", "x.toml")
    assert answer.code == 0, answer.err
    onnxruntime.InferenceSession("x.onnx", providers=["CPUExecutionProvider"])
