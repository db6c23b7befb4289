"""Beginning with a solution in a file."""

import numpy as np
import pytest
from torch import nn

from moeash.codec.container import write
from moeash.compression.compressor import Circumstances, Compressor
from moeash.compression.options import CodecOptions
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Recipe
from moeash.errors import InputError
from moeash.methods.fixing.starting import kept_of, read_start
from moeash.methods.registry import build_method
from moeash.methods.training.options import TrainingOptions
from moeash.methods.uniform.options import UniformOptions
from moeash.methods.wfn.options import WfnOptions
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import digits_network, prepare


def solution_of(network, splits, k=24):
    method = build_method(UniformOptions(k=(2, 64)))
    prepared = prepare(method, network, splits)
    return method.compress(prepared, Candidate.of({"k": k}), network=network)


@pytest.fixture
def network():
    return digits_network()


@pytest.fixture
def start(network, splits):
    return solution_of(network, splits)


@pytest.fixture
def path(start, tmp_path):
    write(tmp_path / "start.moeash", start, coder="ans")
    return str(tmp_path / "start.moeash")


def test_the_solution_in_the_file_is_read(network, start, path):
    assert read_start(path, None, network).fingerprint() == start.fingerprint()
    assert read_start(path, start.fingerprint(), network).fingerprint() == start.fingerprint()


def test_another_solution_in_its_place_is_refused(network, path):
    with pytest.raises(InputError, match=r"method.start = .* is another solution than the study"):
        read_start(path, "0" * 32, network)


def test_what_is_no_solution_of_the_network_is_refused(network, path, tmp_path):
    with pytest.raises(InputError, match=r"method.start = .*cannot read"):
        read_start(str(tmp_path / "nowhere.moeash"), None, network)
    (tmp_path / "no.moeash").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"method.start = '.*no.moeash'"):
        read_start(str(tmp_path / "no.moeash"), None, network)
    module = nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(InputError, match=r"it does not fit Sequential: .* missing: 0.weight"):
        read_start(path, None, Network(module, read_state(module), "other"))


def test_what_the_solution_shares_and_the_network_keeps_is_kept_as_it_is_decoded(network, start):
    alone = read_state(network.module, include=["conv*"])
    kept = kept_of(start, alone)
    assert set(kept) == {p.name for p in alone if p.role == "kept"}
    assert {"fc1.weight", "fc1.bias"} <= set(kept)
    for name, tensor in kept.items():
        np.testing.assert_array_equal(tensor.decoded(), start.decoded()[name], name)


@pytest.mark.slow
def test_a_training_begins_with_it_wherever_the_file_is(splits, start, path, tmp_path):
    def trained(**changes):
        options = WfnOptions(fractions=(0.5, 1.0), epochs=1, **changes)
        made = Compressor(
            digits_network(),
            build_method(options),
            Circumstances(CodecOptions(), 0, 1, "cpu", 50, training=TrainingOptions(1.0, 64)),
            {"train": splits["search"]},
            search=splits["search"],
        )
        made.check_training()
        return made.build(Recipe(Candidate.of({"delta": 0.05})))

    begun = trained(start=path)
    assert begun.fingerprint() != trained().fingerprint()
    write(tmp_path / "moved.moeash", start, coder="huffman")
    assert trained(start=str(tmp_path / "moved.moeash")).fingerprint() == begun.fingerprint()
    other = solution_of(digits_network(), splits, k=9)
    write(tmp_path / "other.moeash", other, coder="ans")
    assert trained(start=str(tmp_path / "other.moeash")).fingerprint() != begun.fingerprint()
