"""ResNet-20 on CIFAR-10 leaves in every format and stays what it was."""

import pytest
import torch
from safetensors.torch import load_file

import moeash
from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.networks.loading.sources import load_network
from tests.exports.formats.test_c import compiled, needs_gcc

pytestmark = [pytest.mark.realdata, pytest.mark.slow]
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")

PROGRAM = """\
#define R20_IMPLEMENTATION
#include "r20.h"
#include <stdio.h>

static union { double align; unsigned char bytes[R20_BYTES]; } to;

int main(void)
{
    size_t i;
    for (i = 0; i < R20_TENSORS; i++) {
        r20_decode(i, to.bytes + r20_tensors[i].offset);
        fwrite(to.bytes + r20_tensors[i].offset, r20_tensors[i].element_bytes,
               r20_tensors[i].elements, stdout);
    }
    return 0;
}
"""


@needs_gcc
def test_resnet20_has_one_holdout_accuracy_in_every_format(real_data, tmp_path):
    root = real_data / "cifar10-jpeg"
    source = load_source("imagefolder", root=root, options={"preset": "cifar"})
    split = draw_splits(source, {"holdout": {"part": "test", "range": [0, 1000]}})["holdout"]
    ((images, labels),) = split.batches(1000)
    network = load_network(
        "resnet20", checkpoint=real_data / "models/resnet20-cifar10-jpeg.safetensors"
    )
    file = tmp_path / "r20.moeash"
    moeash.compress(network, file, candidate={"k": 40}, progress=False)
    for suffix in (".pt", ".safetensors", ".h"):
        moeash.decompress(file, file.with_suffix(suffix))
    moeash.decompress(file, file.with_suffix(".onnx"), network=network, inputs=images)
    indices, kept = moeash.inspect(file).n_shared, moeash.inspect(file).n_kept
    assert file.with_suffix(".onnx").stat().st_size < 1.02 * indices + 4 * kept + 20_000

    moeash.load(file, into=network)
    state = network.state_dict()
    for read in (torch.load(tmp_path / "r20.pt"), load_file(tmp_path / "r20.safetensors")):
        assert read.keys() == state.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert compiled(tmp_path, PROGRAM) == b"".join(t.numpy().tobytes() for t in state.values())
    with torch.inference_mode():
        expected = network(images)
    session = onnxruntime.InferenceSession(tmp_path / "r20.onnx")
    outputs = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert float((outputs - expected).abs().max() / expected.abs().max()) <= 1e-5
    right = [int((scores.argmax(1) == labels).sum()) for scores in (outputs, expected)]
    assert right[0] == right[1] > 700
