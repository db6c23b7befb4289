import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moeash.core.codebook import FLOAT_NAMES, Codebook, index_dtype, keep_all, share
from moeash.core.kept import Keeping
from moeash.errors import CheckpointError, InputError
from moeash.networks.parameters import read_state
from moeash.networks.writing.inplace import CHUNK, WeightWriter, _DeviceSlot, load_into, slot


class Net(nn.Module):
    """Every kind of tensor: conv, BatchNorm with an integer buffer, scalar, tied embedding."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(2, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.head = nn.Linear(6, 7)
        self.head.weight = self.embedding.weight


def random_shared(state, *, n_entries=5, seed=0, kept_precision="float32"):
    """Shared weights with arbitrary indices; entries that no dtype holds exactly."""
    rng = np.random.default_rng(seed)
    codebook = Codebook(np.unique(rng.normal(size=n_entries).astype(np.float32)))
    assigned = {}
    for p in state:
        if p.role == "shared":
            indices = rng.integers(0, len(codebook), p.values.size).astype(index_dtype(n_entries))
            assigned[p.name] = (0, indices, np.bincount(indices, minlength=len(codebook)))
    return Keeping(kept_precision).apply(share(state, [codebook], assigned, keep_all(state)))


def bits(tensor):
    plain = tensor.detach().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


def decoded_bits(weights, state):
    """Bits of the decoded arrays in the network's dtype; bfloat16 rounds from float32."""
    dtypes = {p.name: getattr(torch, p.dtype) for p in state}
    return {
        name: bits(torch.tensor(array).to(dtypes[name]))
        for name, array in weights.decoded().items()
    }


def network_bits(module):
    return {name: bits(tensor) for name, tensor in module.state_dict().items()}


@given(
    dtype=st.sampled_from(FLOAT_NAMES),
    n_entries=st.sampled_from([1, 2, 200, 256, 257, 3000, 70_000]),
    kept=st.sampled_from(["float32", "float16"]),
    channels_last=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_writing_equals_decoding_bit_for_bit(dtype, n_entries, kept, channels_last, seed):
    module = Net(seed).to(getattr(torch, dtype))
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    state = read_state(module)
    weights = random_shared(state, n_entries=n_entries, seed=seed, kept_precision=kept)
    WeightWriter(module, state).write(weights)
    assert network_bits(module) == decoded_bits(weights, state)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
def test_large_tensors_are_written_to_their_last_weight(size):
    module = nn.Linear(size, 1, bias=False)
    state = read_state(module)
    weights = random_shared(state, n_entries=300)
    WeightWriter(module, state).write(weights)
    assert network_bits(module) == decoded_bits(weights, state)


@given(
    dtype=st.sampled_from(FLOAT_NAMES),
    n_entries=st.sampled_from([1, 256, 257, 40_000, 70_000]),
    seed=st.integers(0, 9),
)
@settings(deadline=None, max_examples=40)
def test_the_path_of_other_devices_writes_the_same_bits(dtype, n_entries, seed):
    rng = np.random.default_rng(seed)
    codebook = Codebook(np.unique(rng.normal(size=n_entries).astype(np.float32)))
    indices = rng.integers(0, len(codebook), 600).astype(index_dtype(n_entries))
    indices[0] = len(codebook) - 1
    host, other = (torch.zeros(20, 30, dtype=getattr(torch, dtype)) for _ in range(2))
    slot(host).gather(codebook, indices)
    _DeviceSlot(other).gather(codebook, indices)
    assert bits(host) == bits(other)
    values = rng.normal(size=(20, 30)).astype(np.float32)
    slot(host).put(values)
    _DeviceSlot(other).put(values)
    assert bits(host) == bits(other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_cuda_weights_equal_decoding_bit_for_bit(dtype):
    module = Net().to(getattr(torch, dtype)).cuda()
    state = read_state(module)
    writer = WeightWriter(module, state)
    for n_entries in (5, 3000, 70_000):
        weights = random_shared(state, n_entries=n_entries)
        writer.write(weights)
        assert network_bits(copy.deepcopy(module).cpu()) == decoded_bits(weights, state)


def test_parameters_stay_where_they_are_and_tied_ones_stay_tied():
    module = Net()
    state = read_state(module)
    where = {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}
    WeightWriter(module, state).write(random_shared(state))
    assert {name: tensor.data_ptr() for name, tensor in module.state_dict().items()} == where
    assert module.head.weight is module.embedding.weight


def test_restoring_brings_every_float_bit_back():
    module = Net().to(torch.bfloat16)
    before = network_bits(module)
    state = read_state(module)
    writer = WeightWriter(module, state)
    writer.write(random_shared(state, kept_precision="float16"))
    assert network_bits(module) != before
    writer.restore()
    assert network_bits(module) == before


def test_kept_tensors_are_written_again_when_they_differ_or_after_restore():
    module = Net()
    state = read_state(module)
    writer = WeightWriter(module, state)
    full = random_shared(state)
    half = random_shared(state, kept_precision="float16")
    for weights in (full, half, full, half, half):
        writer.write(weights)
        assert network_bits(module) == decoded_bits(weights, state)
    writer.restore()
    writer.write(half)
    assert network_bits(module) == decoded_bits(half, state)


def test_weights_of_another_network_are_refused_before_anything_is_written():
    module = Net()
    writer = WeightWriter(module, read_state(module))
    before = network_bits(module)
    other = read_state(nn.Linear(3, 3))
    with pytest.raises(InputError, match="another network"):
        writer.write(random_shared(other))
    wider = read_state(Net().double())
    with pytest.raises(InputError, match="another network"):
        writer.write(random_shared(wider))
    assert network_bits(module) == before


def test_a_state_of_another_network_is_refused():
    with pytest.raises(InputError, match="not that of this Net"):
        WeightWriter(Net(), read_state(Net().half()))
    with pytest.raises(InputError, match="not that of this Net"):
        WeightWriter(Net(), read_state(Net())[:-1])


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_decoded_arrays_load_into_a_fresh_network(dtype):
    module, fresh = (Net(seed).to(getattr(torch, dtype)) for seed in (1, 2))
    state = read_state(module)
    weights = random_shared(state)
    arrays = weights.decoded()
    for array in arrays.values():
        array.flags.writeable = False
    load_into(fresh, arrays)
    assert network_bits(fresh) == decoded_bits(weights, state)
    assert fresh.head.weight is fresh.embedding.weight


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop("conv.weight"), "1 missing: conv.weight"),
        (lambda a: a.update(odd=np.zeros(2)), "1 unexpected: odd"),
        (lambda a: a.update({"conv.bias": np.zeros(4)}), r"conv.bias \(4,\) for \(3,\)"),
        (lambda a: a.update({"head.weight": np.zeros((7, 6))}), "tied in the network"),
    ],
)
def test_arrays_that_do_not_fit_leave_the_network_alone(change, message):
    module = Net()
    arrays = random_shared(read_state(module)).decoded()
    change(arrays)
    before = network_bits(module)
    with pytest.raises(CheckpointError, match=message):
        load_into(module, arrays)
    assert network_bits(module) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_write_counts_so_that_what_is_kept_by_the_version_of_a_weight_is_made_anew(dtype):
    module = nn.Linear(4, 3).to(dtype)
    state = read_state(module)
    writer, versions = WeightWriter(module, state), [module.weight._version]
    writer.write(random_shared(state))
    versions.append(module.weight._version)
    writer.restore()
    versions.append(module.weight._version)
    assert versions == sorted(set(versions))
