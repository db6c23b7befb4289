import sys

import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.codec.container import read
from moeash.data.unlabelled import Unlabelled
from moeash.errors import ExportError, InputError
from moeash.exports.formats.base import Source, metadata_of
from moeash.exports.formats.onnx.file import OnnxFile
from moeash.exports.formats.onnx.running import check_state
from moeash.exports.formats.onnx.sharing import packed_indices
from moeash.exports.runnable import runnable
from moeash.networks.writing.decoding import tensors_of
from tests.exports.formats.odd import shared
from tests.marks import slow
from tests.test_bad_input import full_disk

onnx = pytest.importorskip("onnx", reason="pip install 'moeash[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'moeash[onnx]'")


class Words(nn.Module):
    """Tied weights, several inputs and outputs, a buffer of every kind that no node needs."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.head = nn.Linear(8, 40, bias=False)
        self.head.weight = self.embedding.weight
        self.codebook = nn.Parameter(torch.randn(8))
        self.unused = nn.Linear(4, 4)
        self.register_buffer("positions", torch.arange(5))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("wave", torch.zeros(3, dtype=torch.complex64))

    def forward(self, ids, mask=None):
        x = self.embedding(ids) * self.codebook + self.positions[:, None]
        x = x if mask is None else x * mask[..., None]
        return {"logits": self.head(x), "pooled": x.mean(1)}


class Named(nn.Module):
    """A weight that has the name of the input, and one of what the weights are made of."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.randn(6, 9))
        self.codebook = nn.Parameter(torch.randn(9, 9))

    def forward(self, x):
        return x @ self.x @ self.codebook


class Strided(nn.Module):
    """Weights whose memory is in another order than their axes."""

    def __init__(self):
        super().__init__()
        self.turned = nn.Parameter(torch.randn(6, 4).t())
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def forward(self, x):
        return self.conv(x).mean((2, 3)) @ self.turned


def normed():
    """A convolution that exporters like to fold a BatchNorm into."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    network.append(nn.Linear(8 * 36, 10))
    with torch.no_grad():
        network[1].running_var.uniform_(0.5, 2)
    return network


NETWORKS = {
    "normed": (normed, torch.randn(9, 1, 8, 8)),
    "words": (Words, {"ids": torch.arange(35).reshape(7, 5), "mask": torch.ones(7, 5)}),
    "strided": (Strided, torch.randn(5, 3, 8, 8)),
    "named": (Named, torch.randn(5, 6)),
    "double": (lambda: nn.Linear(4, 30).double(), torch.randn(5, 4).double()),
    "half": (lambda: nn.Linear(4, 30).half(), torch.randn(5, 4).half()),
    "wrapped": (lambda: nn.DataParallel(nn.Linear(4, 30)), torch.randn(1, 4)),
}


def source(folder, name, k=30):
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    network = make().eval()
    moeash.compress(network, folder / "x.moeash", candidate={"k": k}, progress=False)
    weights = read(folder / "x.moeash").shared
    given = Unlabelled(inputs, at_most=sys.maxsize, network=network)
    return Source(weights, metadata_of(weights), runnable(network, weights, given, batch_size=4))


def written(folder, of, format=None):
    with (format or OnnxFile()).placing(of, folder / "x.onnx"):
        assert not (folder / "x.onnx").exists()
    return onnx.load(folder / "x.onnx")


@pytest.fixture(scope="module")
def normed_source(tmp_path_factory):
    return source(tmp_path_factory.mktemp("normed"), "normed")


@pytest.fixture(scope="module")
def normed_file(normed_source, tmp_path_factory):
    """A file, and the model in it."""
    folder = tmp_path_factory.mktemp("file")
    return folder / "x.onnx", written(folder, normed_source)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["strided", *map(slow, ("words", "normed", "double", "half", "wrapped"))]
)
def test_a_network_runs_in_onnxruntime_on_indices_and_one_codebook(tmp_path, name):
    of = source(tmp_path, name)
    model = written(tmp_path, of)
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {i.name: i for i in model.graph.initializer}
    lookups = [node for node in model.graph.node if node.op_type == "Gather"]
    lookups = [node for node in lookups if node.input[0].startswith("codebook")]
    assert len({node.input[0] for node in lookups}) == 1, "one codebook"
    used = [t for t in of.weights.shared if not t.name.startswith("unused")]
    indices = [makers[node.input[1]].input[0] for node in lookups]
    assert [list(found[name].dims) for name in indices] == [list(t.shape) for t in used]
    narrow = (onnx.TensorProto.UINT8, onnx.TensorProto.UINT4)
    assert all(found[name].data_type in narrow for name in indices)
    floats = [i for i in model.graph.initializer if i.data_type in (1, 10, 11) and len(i.dims) > 1]
    assert not floats, "no weight is there twice"
    (opset,) = [o.version for o in model.opset_import if not o.domain]
    assert opset == 21
    # What torch and onnxruntime make of any number of inputs has been compared; once more by hand.
    session = ort.InferenceSession(tmp_path / "x.onnx")
    for batch in of.network.batches():
        args = [batch] if isinstance(batch, torch.Tensor) else list(batch.kwargs.values())
        outputs = session.run(
            None, {i.name: a.numpy() for i, a in zip(session.get_inputs(), args, strict=True)}
        )
        expected = of.network.module(*args)
        expected = [*expected.values()] if isinstance(expected, dict) else [expected]
        tolerance = 4e-3 if name == "half" else 1e-5
        for one, other in zip(outputs, expected, strict=True):
            other = other.detach().numpy()
            assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.slow
def test_few_entries_take_four_bits_an_index(tmp_path):
    of = source(tmp_path, "normed", k=15)
    model = written(tmp_path, of)
    indices = [i for i in model.graph.initializer if i.name.endswith(".indices")]
    assert len(indices) == 2
    for initializer in indices:
        assert initializer.data_type == onnx.TensorProto.UINT4
        assert len(initializer.raw_data) == -(-np.prod(initializer.dims) // 2)


@pytest.mark.parametrize(
    ("n_entries", "dtype", "n_bytes"),
    [(16, "uint4", 4), (17, "uint8", 7), (257, "uint16", 14), ((1 << 16) + 1, "int32", 28)],
)
def test_indices_are_as_narrow_as_onnx_has_them(n_entries, dtype, n_bytes):
    kind, raw = packed_indices(shared("w", (7,), n_entries), n_entries)
    assert (kind, len(raw)) == (dtype, n_bytes)


@pytest.mark.slow
def test_tensors_of_large_networks_stand_in_a_file_beside(normed_source, normed_file, tmp_path):
    path, alone = normed_file
    with OnnxFile(external_above=100).placing(normed_source, tmp_path / "y.onnx") as names:
        assert [path.name for path in names] == ["y.onnx", "y.onnx.data"]
        assert not any(path.exists() for path in names)
    assert {p.name for p in tmp_path.iterdir()} == {"y.onnx", "y.onnx.data"}
    assert (tmp_path / "y.onnx").stat().st_size < path.stat().st_size
    beside = onnx.load(tmp_path / "y.onnx")
    to_array = onnx.numpy_helper.to_array
    for one, other in zip(alone.graph.initializer, beside.graph.initializer, strict=True):
        assert to_array(one).tobytes() == to_array(other).tobytes()
    x = torch.randn(3, 1, 8, 8).numpy()
    results = [
        session.run(None, {session.get_inputs()[0].name: x})[0]
        for session in map(ort.InferenceSession, (path, tmp_path / "y.onnx"))
    ]
    np.testing.assert_array_equal(*results)


@pytest.mark.slow
@pytest.mark.parametrize("external_above", [1 << 30, 100])
def test_a_full_disk_leaves_no_file(normed_source, tmp_path, external_above):
    with full_disk(400), pytest.raises(ExportError, match=r"cannot write .*x.onnx"):
        written(tmp_path, normed_source, OnnxFile(external_above))
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_a_file_says_where_it_comes_from_and_names_no_folder(normed_source, normed_file):
    path, model = normed_file
    assert {p.key: p.value for p in model.metadata_props} == dict(normed_source.metadata)
    assert model.producer_name == "moeash"
    content = path.read_bytes()
    assert b"site-packages" not in content and b".py" not in content


@pytest.mark.slow
def test_a_tensor_that_differs_in_one_bit_is_found(normed_source, normed_file):
    of, (path, _) = normed_source, normed_file
    model = onnx.load(path)
    entered = {name: name for name in tensors_of(of.weights) if "tracked" not in name}
    check_state(model, of.weights, entered)
    for initializer in model.graph.initializer:
        if initializer.name == "codebook" or initializer.name.split(".")[0].isdigit():
            raw = initializer.raw_data
            initializer.raw_data = bytes([raw[0] ^ 1]) + raw[1:]
            with pytest.raises(ExportError, match="the ONNX file written holds another"):
                check_state(model, of.weights, entered)
            initializer.raw_data = raw


class Fixed(nn.Linear):
    """Takes seven inputs at a time and no other number."""

    def forward(self, x):
        return super().forward(x).reshape(7, -1)


class Drawn(nn.Linear):
    """Another function in every call."""

    def forward(self, x):
        return super().forward(x) + torch.rand(1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "message"),
    [
        slow(Fixed(4, 30), "torch cannot export Fixed as ONNX: "),
        (Drawn(4, 30), "onnxruntime's outputs are .* of the largest away from torch's"),
        slow(nn.Linear(4, 30).bfloat16(), "onnxruntime cannot load the file written: "),
    ],
)
def test_what_cannot_be_exported_or_run_is_refused(tmp_path, network, message):
    moeash.compress(network, tmp_path / "x.moeash", candidate={"k": 30}, progress=False)
    inputs = torch.randn(7, 4, dtype=network.weight.dtype)
    with pytest.raises(ExportError, match=message):
        moeash.decompress(
            tmp_path / "x.moeash", tmp_path / "x.onnx", network=network, inputs=inputs
        )
    assert [p.name for p in tmp_path.iterdir()] == ["x.moeash"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    normed_source, tmp_path, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"needs the package {package}, which is not installed; pip install 'moeash\[onnx\]'"
    with pytest.raises(InputError, match=message):
        written(tmp_path, normed_source)
    assert not (tmp_path / "x.onnx").exists()
