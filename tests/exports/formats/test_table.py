"""What every format promises."""

import pytest
import torch
from torch import nn

import moeash
from moeash.codec.container import read
from moeash.data.unlabelled import Unlabelled
from moeash.exports.formats.base import Source, metadata_of
from moeash.exports.formats.names import FORMATS, WITH_NETWORK
from moeash.exports.formats.table import TABLE
from moeash.exports.runnable import runnable
from tests.marks import slow


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "x.moeash"
    network = nn.Linear(4, 30)
    moeash.compress(network, path, candidate={"k": 9}, progress=False)
    weights = read(path).shared
    inputs = Unlabelled(torch.randn(5, 4), at_most=5)
    return Source(weights, metadata_of(weights), runnable(network, weights, inputs))


@pytest.mark.parametrize("name", [slow(name) if name == "onnx" else name for name in FORMATS])
def test_a_file_gets_its_name_when_all_has_gone_well_and_not_before(tmp_path, source, name):
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")
    target = tmp_path / "x"
    target.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), TABLE[name].placing(source, target):
        assert target.read_bytes() == b"before"
        raise KeyboardInterrupt
    assert [*tmp_path.iterdir()] == [target] and target.read_bytes() == b"before"
    with TABLE[name].placing(source, target) as paths:
        assert paths == (target,)
        assert target.read_bytes() == b"before"
    assert [*tmp_path.iterdir()] == [target] and len(target.read_bytes()) > 100


def test_only_what_holds_the_computation_asks_for_the_network(tmp_path, source):
    alone = Source(source.weights, source.metadata)
    for name in FORMATS:
        if name in WITH_NETWORK:
            with pytest.raises(moeash.InputError, match=f"format {name} holds the computation"):
                TABLE[name].placing(alone, tmp_path / "x").__enter__()
        else:
            with TABLE[name].placing(alone, tmp_path / "x"):
                pass
