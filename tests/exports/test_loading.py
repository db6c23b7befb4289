"""What a file gives, into a network and without one."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.core.codebook import Codebook, KeptTensor, SharedTensor, SharedWeights, TiedTensor
from moeash.errors import CheckpointError, ContainerError, CorruptContainerError, InputError
from tests.marks import slow


def shared_tensor(name, shape, book, codebook=0, dtype="float32"):
    rng = np.random.default_rng(len(name))
    indices = rng.integers(0, len(book), int(np.prod(shape))).astype(np.uint8)
    counts = np.bincount(indices, minlength=len(book))
    return SharedTensor(name, shape, dtype, codebook, indices, counts)


def kept(name, values, dtype=None):
    return KeptTensor(name, values.shape, dtype or values.dtype.name, values)


BOOKS = (Codebook(np.linspace(-1, 1, 9) / 3), Codebook(np.linspace(2, 3, 5)))
KEPT = {
    "count": np.array(3, np.int64),
    "mask": np.array([[True], [False]]),
    "wave": np.array([1j, 2], np.complex64),
    "bytes": np.arange(5, dtype=np.uint8),
    "nothing": np.empty((0, 2), np.float32),
    "small": np.arange(4, dtype=np.float16),
    "wide": np.arange(3, dtype=np.float64),
}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A file with a tensor of every kind."""
    tensors = (
        shared_tensor("one", (300, 400), BOOKS[0]),
        shared_tensor("other", (7, 3, 2), BOOKS[1], codebook=1),
        TiedTensor("again", "one"),
        shared_tensor("halved", (6, 5), BOOKS[0], dtype="float16"),
        shared_tensor("brain", (6, 5), BOOKS[0], dtype="bfloat16"),
        *(kept(name, values) for name, values in KEPT.items()),
        kept("scale", np.ones(3, np.float32) / 3, "bfloat16"),
    )
    path = tmp_path_factory.mktemp("everything") / "x.moeash"
    container.write(path, SharedWeights(BOOKS, tensors))
    return path


class Everything(nn.Module):
    """Has room for all of it, in other strides where that can be."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.one = nn.Parameter(torch.zeros(400, 300, dtype=dtype).T)
        self.other = nn.Parameter(torch.zeros(2, 7, 3, dtype=dtype).permute(1, 2, 0))
        self.again = self.one
        self.halved = nn.Parameter(torch.zeros(6, 5, dtype=dtype))
        self.brain = nn.Parameter(torch.zeros(6, 5, dtype=torch.bfloat16))
        for name, values in KEPT.items():
            self.register_buffer(name, torch.zeros_like(torch.tensor(values)))
        self.register_buffer("scale", torch.zeros(3, dtype=torch.bfloat16))


def test_tensors_come_by_name_in_their_own_dtypes(everything):
    tensors, arrays = moeash.load(everything), moeash.read(everything)
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        wide = tensors[name].float() if tensors[name].dtype == torch.bfloat16 else tensors[name]
        expected = torch.tensor(array)
        if name in ("brain", "scale"):
            assert tensors[name].dtype == torch.bfloat16
            expected = expected.bfloat16().float()
        assert torch.equal(wide, expected) and wide.dtype == expected.dtype
    assert tensors["again"] is tensors["one"]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_floats_of_a_byte_are_those_that_torch_rounds_to(tmp_path, dtype):
    network = nn.Linear(300, 400).eval()
    moeash.compress(network, tmp_path / "a.moeash", candidate={"k": 9}, progress=False)
    wanted = {name: values.to(dtype) for name, values in moeash.load(tmp_path / "a.moeash").items()}
    narrow = moeash.load(tmp_path / "a.moeash", into=nn.Linear(300, 400).to(dtype))
    for found in (moeash.load(tmp_path / "a.moeash", dtype=dtype), narrow.state_dict()):
        for name, values in wanted.items():
            assert found[name].dtype == dtype
            assert torch.equal(found[name].view(torch.uint8), values.view(torch.uint8)), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_dtype_is_for_floats_only(everything, dtype):
    tensors, own = moeash.load(everything, dtype=dtype, device="cpu"), moeash.load(everything)
    for name, tensor in tensors.items():
        wanted = dtype if own[name].is_floating_point() else own[name].dtype
        assert tensor.dtype == wanted
    assert torch.equal(tensors["one"], own["one"].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_other_strides_and_dtypes_holds_the_decoded_values(everything, dtype):
    module = Everything(dtype)
    strides = {name: tensor.stride() for name, tensor in module.state_dict().items()}
    pointers = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    assert moeash.load(everything, into=module) is module
    state = module.state_dict()
    for name, tensor in moeash.load(everything).items():
        assert torch.equal(state[name], tensor.to(state[name].dtype)), name
    assert {name: tensor.stride() for name, tensor in state.items()} == strides
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == pointers
    assert module.again is module.one


def test_a_network_goes_where_it_is_asked_to(everything):
    module = moeash.load(everything, into=Everything(), dtype=torch.float64, device="cpu")
    assert module.one.dtype == module.small.dtype == torch.float64
    assert module.count.dtype == torch.int64 and module.wave.is_complex()
    assert torch.equal(module.one, moeash.load(everything)["one"].double())


def test_everything_that_does_not_fit_is_named_in_one_error(everything):
    module = Everything()
    del module.other
    module.register_buffer("new", torch.zeros(2))
    module.register_buffer("mask", torch.zeros(1, 2, dtype=torch.bool))
    module.register_buffer("count", torch.tensor(1.0))
    module.register_buffer("bytes", torch.zeros(5, dtype=torch.complex64))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(CheckpointError) as caught:
        moeash.load(everything, into=module, dtype=torch.float64)
    for part in (
        "1 missing: new",
        "1 unexpected: other",
        "1 of another shape: mask (2, 1) for (1, 2)",
        "2 of another kind: count int64 for torch.float32, bytes uint8 for torch.complex64",
    ):
        assert part in str(caught.value)
    after = module.state_dict()
    assert all(
        torch.equal(after[name], t) and after[name].dtype == t.dtype for name, t in before.items()
    )


def test_weights_that_differ_are_refused_where_the_network_ties_them(tmp_path):
    first, second = (shared_tensor(name, (5, 5), BOOKS[0]) for name in ("0.weight", "01.weight"))
    second = replace(second, name="1.weight")
    container.write(tmp_path / "x.moeash", SharedWeights(BOOKS[:1], (first, second)))
    module = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    moeash.load(tmp_path / "x.moeash", into=module)
    module[1].weight = module[0].weight
    message = "1 different though tied in the network: 1.weight and 0.weight"
    with pytest.raises(CheckpointError, match=message):
        moeash.load(tmp_path / "x.moeash", into=module)
    same = replace(first, name="1.weight")
    container.write(tmp_path / "x.moeash", SharedWeights(BOOKS[:1], (first, same)))
    moeash.load(tmp_path / "x.moeash", into=module)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "cpuu"}, "device 'cpuu' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"device": 3.5}, "device '3.5' cannot be used here"),
        ({"dtype": torch.int8}, "dtype is torch.int8; needed a floating one"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(everything, arguments, message):
    module = Everything()
    for into in (None, module):
        with pytest.raises(InputError, match=message):
            moeash.load(everything, into=into, **arguments)
    assert not module.one.any()


def test_a_file_cut_anywhere_is_refused_and_the_network_stays(everything, tmp_path):
    data, module = everything.read_bytes(), Everything()
    for n_bytes in (0, 3, 20, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.moeash").write_bytes(data[:n_bytes])
        with pytest.raises(CorruptContainerError):
            moeash.load(tmp_path / "cut.moeash", into=module)
    with pytest.raises(ContainerError, match="cannot read"):
        moeash.load(tmp_path / "none.moeash", into=module)
    assert not module.one.any()


@pytest.mark.parametrize(
    ("coder", "n_entries"),
    [*itertools.product(("ans", "huffman", "adaptive"), (3, 200, 300)), slow("ans", 70_000)],
)
def test_every_coder_and_width_of_indices_loads(tmp_path, coder, n_entries):
    book = Codebook(np.linspace(-1, 1, n_entries))
    rng = np.random.default_rng(0)
    width = np.uint8 if n_entries <= 256 else np.uint16 if n_entries <= 65_536 else np.uint32
    indices = rng.integers(0, n_entries, 40_000).astype(width)
    tensor = SharedTensor(
        "weight", (200, 200), "float32", 0, indices, np.bincount(indices, minlength=n_entries)
    )
    container.write(tmp_path / "x.moeash", SharedWeights((book,), (tensor,)), coder=coder)
    network = moeash.load(tmp_path / "x.moeash", into=nn.Linear(200, 200, bias=False))
    assert np.array_equal(network.weight.detach().numpy().ravel(), book.entries[indices])
