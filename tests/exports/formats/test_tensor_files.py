"""safetensors and torch: decoded tensors, as the network has them."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from moeash.core.codebook import SharedWeights
from moeash.errors import ExportError
from moeash.exports.formats.base import Source, metadata_of
from moeash.exports.formats.safetensors_file import SafetensorsFile
from moeash.exports.formats.tensors import same
from moeash.exports.formats.torch_file import TorchFile
from moeash.networks.writing.decoding import tensors_of
from tests.exports.formats.odd import codebook, kept, odd_weights, shared
from tests.test_bad_input import full_disk

FORMATS = [SafetensorsFile(), TorchFile()]


def load(path):
    return torch.load(path, weights_only=True) if path.suffix == ".pt" else load_file(path)


def written(folder, format, weights, metadata=()):
    path = folder / ("x.pt" if format.name == "torch" else "x.safetensors")
    with format.placing(Source(weights, dict(metadata)), path):
        assert not path.exists()
    return path


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_every_tensor_is_read_back_with_its_bits_shape_and_dtype(tmp_path, format):
    weights = odd_weights(complex128=format.name == "torch")
    read = load(written(tmp_path, format, weights))
    expected = tensors_of(weights)
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert same(read[name], tensor), name
    assert read["brain.weight"].dtype == read["brain.bias"].dtype == torch.bfloat16


def test_tied_tensors_stay_tied_in_a_torch_file(tmp_path):
    read = load(written(tmp_path, TorchFile(), odd_weights()))
    assert read["tied.weight"].data_ptr() == read["conv.weight"].data_ptr()
    assert read["tied.bias"].data_ptr() == read["bias"].data_ptr()


def test_metadata_is_where_each_format_keeps_it(tmp_path):
    metadata = metadata_of(odd_weights(), study="digits", recipe="{}", note_network="mine")
    assert metadata.keys() >= {"moeash_version", "fingerprint", "study", "recipe"}
    weights = odd_weights(complex128=False)
    with safe_open(written(tmp_path, SafetensorsFile(), weights, metadata), "pt") as file:
        assert file.metadata() == {"format": "pt", **metadata}
    assert load(written(tmp_path, TorchFile(), weights, metadata)).moeash == metadata


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_a_file_that_says_another_origin_is_refused(tmp_path, format):
    weights = odd_weights(complex128=False)
    path = written(tmp_path, format, weights, {"study": "a"})
    with pytest.raises(ExportError, match="holds other metadata"):
        format.check(Source(weights, {"study": "b"}), path)


def test_a_torch_file_is_a_state_dict(tmp_path):
    weights = SharedWeights((codebook(4),), (shared("weight", (3, 2), 4), kept("bias", [0.0] * 3)))
    module = torch.nn.Linear(2, 3)
    module.load_state_dict(load(written(tmp_path, TorchFile(), weights, {"study": "x"})))
    assert same(module.weight, tensors_of(weights)["weight"])


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
def test_a_full_disk_leaves_what_was_there(tmp_path, format):
    weights = SharedWeights((codebook(4),), (shared("w", (300, 300), 4),))
    target = tmp_path / "x"
    target.write_bytes(b"before")
    with (
        full_disk(100_000),
        pytest.raises(ExportError, match=r"cannot write .*x'"),
        format.placing(Source(weights), target),
    ):
        raise AssertionError("it was written")
    assert [*tmp_path.iterdir()] == [target] and target.read_bytes() == b"before"


@pytest.mark.parametrize("format", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("place", [3, 300, -40])
def test_a_file_the_disk_has_altered_is_refused(tmp_path, format, place):
    weights = odd_weights(complex128=False)
    path = written(tmp_path, format, weights, {"study": "x" * 99})
    data = bytearray(path.read_bytes())
    for at in range(place, place + 30):
        data[at] ^= 0xA5
    path.write_bytes(data)
    with pytest.raises(ExportError, match=f"the {format.name} file written"):
        format.check(Source(weights, {"study": "x" * 99}), path)
