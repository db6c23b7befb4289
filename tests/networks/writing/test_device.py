"""The device path on CPU tensors, and on a GPU where one is: the kernel's indices, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moeash.core.bins import Grid, assign_bins, assign_bins_reference
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.errors import InputError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from moeash.networks.writing import device as device_module
from moeash.networks.writing.device import DeviceWriter, assign_bins_on_device
from tests.digits import digits_spec

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return request.param


def same_as_kernel(weights, grid, device):
    got = assign_bins_on_device(torch.tensor(weights).to(device), grid).cpu().numpy()
    np.testing.assert_array_equal(got, assign_bins(weights, grid))
    np.testing.assert_array_equal(got, assign_bins_reference(weights, grid))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 2, 37, 256, 65_536, 1 << 20])
@pytest.mark.parametrize("zero_aligned", [False, True])
def test_bins_are_those_of_the_kernel(device, dtype, k, zero_aligned):
    weights = (np.random.default_rng(k).standard_normal(20_000) * 0.05).astype(dtype)
    grid = Grid.spanning(weights.min(), weights.max(), k, zero_aligned=zero_aligned)
    same_as_kernel(weights, grid, device)


@pytest.mark.parametrize("k", [3, 10, 255, 1000])
def test_bins_are_those_of_the_kernel_on_and_beside_every_threshold(device, k):
    grid = Grid.spanning(-0.3, 0.7, k)
    edges = (grid.origin + np.arange(k + 1) * grid.step).astype(np.float32)
    beside = [np.nextafter(edges, np.float32(side)) for side in (-np.inf, np.inf)]
    same_as_kernel(np.concatenate([edges, *beside]), grid, device)


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=200, deadline=None)
@given(st.lists(finite, min_size=1, max_size=30), finite, finite, st.integers(1, 5000))
def test_bins_are_those_of_the_kernel_for_any_range(weights, one, other, k):
    try:
        grid = Grid.spanning(min(one, other), max(one, other), k)
    except InputError:
        return
    same_as_kernel(np.array(weights, np.float32), grid, "cpu")


def outcomes(evaluator, jobs):
    found = []
    for job in jobs:
        o = evaluator.evaluate(job, Archive(("size_bytes",)))
        found.append((o.status, o.metric, o.bound, o.sizes, o.fingerprint, o.n_batches, o.error))
    return found


def jobs():
    plain = [Job(Recipe.of({"k": k})) for k in (2, 3, 17, 64, 300)]
    merged = [Job(Recipe.of({"k": 6}, Merge(runs))) for runs in ((2, 1, 1, 1, 1), (6,), (1, 5))]
    return plain + merged + [Job(Recipe.of({"k": 2}), 0.99)]


@pytest.mark.slow
def test_candidates_that_come_about_on_the_device_have_the_outcomes_of_the_host(device):
    """Weights, sizes, fingerprints and metric; on a GPU all but the metric's rounding."""
    spec = digits_spec(method={"k": [2, 400]}, evaluation={"device": device}).task()
    host, there = Evaluator(spec, on_device=False), Evaluator(spec, on_device=True)
    assert outcomes(there, jobs()) == outcomes(host, jobs())
    there.restore()
    assert outcomes(there, jobs()[:2]) == outcomes(host, jobs()[:2])
    there.close()
    host.close()


def written(module, monkeypatch, k=9, chunk=None):
    """Write one candidate both ways; return what is in the module and what should be."""
    from moeash.core.codebook import keep_all
    from moeash.methods.base import Preparation
    from moeash.methods.uniform.method import Uniform
    from moeash.methods.uniform.options import UniformOptions

    if chunk is not None:
        monkeypatch.setattr(device_module, "CHUNK", chunk)
    network = Network(module, read_state(module), "n")
    method = Uniform(UniformOptions(k=(2, 400)))
    prepared = method.prepare(Preparation(network=network, splits={}, seed=0, n_threads=1))
    candidate = Candidate.of({"k": k})
    plan = method.assignment(prepared, candidate)
    writer = DeviceWriter(module, network.state, keep_all(network.state))
    writer.write(plan.grid, plan.lookup, plan.codebook)
    shared = method.compress(prepared, candidate, network=network)
    indices = writer.indices(plan.grid, plan.lookup, len(plan.codebook))
    for tensor in shared.shared:
        assert indices[tensor.name].dtype == tensor.indices.dtype
        np.testing.assert_array_equal(indices[tensor.name], tensor.indices)
    return module.state_dict(), shared.decoded()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_every_dtype_and_memory_format_is_written_as_it_decodes(device, dtype, monkeypatch):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 3))
    module = module.to(device=device, dtype=dtype).to(memory_format=torch.channels_last)
    got, wanted = written(module, monkeypatch)
    for name, values in wanted.items():
        assert torch.equal(got[name].cpu(), torch.tensor(values).to(dtype)), name


def test_chunks_do_not_show(device, monkeypatch):
    torch.manual_seed(0)
    got, wanted = written(torch.nn.Linear(40, 30).to(device), monkeypatch, k=300, chunk=7)
    for name, values in wanted.items():
        assert torch.equal(got[name].cpu(), torch.tensor(values)), name


def test_weights_that_are_not_finite_are_refused():
    module = torch.nn.Linear(3, 3)
    first, *rest = read_state(module)
    state = (replace(first, values=np.full((3, 3), np.nan, np.float32)), *rest)
    with pytest.raises(InputError, match="NaN"):
        DeviceWriter(module, state, {})


@pytest.mark.gpu
def test_a_study_on_a_gpu_equals_itself():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    spec = digits_spec(method={"k": [2, 400]}, evaluation={"device": "cuda"}).task()
    one, two = Evaluator(spec), Evaluator(spec)
    assert outcomes(one, jobs()) == outcomes(two, jobs())


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True)])
def test_tf32_is_off_unless_the_spec_says_so(precision, tf32):
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    evaluator = Evaluator(digits_spec(evaluation={"precision": precision}).task())
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (tf32, tf32)
    evaluator.close()
    assert (matmul.allow_tf32, cudnn.allow_tf32) == before


def test_precision_is_part_of_a_study():
    prints = {digits_spec(evaluation={"precision": p}).fingerprint() for p in ("float32", "bf16")}
    assert len(prints) == 2


def test_bf16_forward_passes_differ_and_float32_ones_do_not():
    def outputs(precision):
        evaluator = Evaluator(
            digits_spec(evaluation={"precision": precision, "metric": "neg_cross_entropy"}).task()
        )
        evaluator.close()
        return evaluator.assessment.baseline

    assert outputs("float32") == outputs("tf32")  # no GPU here, so nothing rounds
    assert outputs("bf16") != outputs("float32")
