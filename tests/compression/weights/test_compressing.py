import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import moeash
from moeash.codec import container
from moeash.codec.streaming import writing
from moeash.compression.weights import choosing, compressing
from moeash.compression.weights.compressing import compress_checkpoint
from moeash.core.bins import Grid, assign_bins
from moeash.core.codebook import Parameter, keep_all, share
from moeash.core.statistics import BinStatistics, uniform_codebook
from moeash.errors import CheckpointError, ExportError, InputError, NonFiniteWeightError
from tests.marks import slow
from tests.memory import output_of


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, scale=0.02):
        return torch.randn(*shape, generator=generator).mul(scale).to(dtype)

    embedding = normal(300, 16)
    return {
        "embed.weight": embedding,
        "head.weight": embedding.clone(),
        "conv.weight": normal(8, 3, 3, 3, scale=0.1),
        "conv.bias": normal(8),
        "fc.weight": normal(64, 120, scale=0.005),
        "steps": torch.tensor(3),
        "wave": torch.tensor([1j, 2]),
        "nothing": torch.zeros(0, 4, dtype=dtype),
        "table": torch.arange(12).reshape(3, 4),
        "double": torch.randn(5, 4, generator=generator, dtype=torch.float64) * 0.02,
    }


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves a checkpoint."""

    def save(found, name="m.safetensors"):
        save_file(found, tmp_path / name)
        return tmp_path / name

    return save


def state_of(path, shared):
    """Return the state of a checkpoint as one that is in memory has it, in the file's order."""
    from moeash.networks.streaming.header import read_header

    loaded = load_file(path)
    state = []
    for name in [tensor.name for tensor in read_header(path)[0]]:
        tensor = loaded[name]
        dtype = str(tensor.dtype).removeprefix("torch.")
        values = (tensor.float() if dtype == "bfloat16" else tensor).numpy()
        if name == "head.weight":
            role, target = "tied", "embed.weight"
            state.append(Parameter(name, tuple(tensor.shape), dtype, role, None, target))
            continue
        role = "shared" if name in shared else "kept"
        state.append(Parameter(name, tuple(tensor.shape), dtype, role, values))
    return tuple(state)


def in_memory(path, k, shared):
    """Return the shared weights by the method's own parts, everything in memory."""
    state = state_of(path, shared)
    chosen = [p for p in state if p.role == "shared"]
    statistics = BinStatistics.from_tensors([np.ravel(p.values) for p in chosen])
    grid = Grid.spanning(statistics.low, statistics.high, k)
    binning = uniform_codebook(statistics, grid)
    assigned = {
        p.name: (0, assign_bins(np.ravel(p.values), grid, lookup=binning.lookup), counts)
        for p, counts in zip(chosen, binning.counts, strict=True)
    }
    return share(state, [binning.codebook], assigned, keep_all(state))


SHARED = {"embed.weight", "conv.weight", "fc.weight", "double"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("k", [slow(1), 7, slow(300)])
@pytest.mark.parametrize("chunk", [100, 1 << 20])
def test_the_file_is_to_the_byte_what_the_container_writes_of_the_network_in_memory(
    saved, tmp_path, dtype, k, chunk, monkeypatch
):
    monkeypatch.setattr(writing, "CHUNK", chunk)
    path = saved(tensors(dtype))
    report = compress_checkpoint(path, tmp_path / "streamed.moeash", k=k)
    container.write(tmp_path / "whole.moeash", in_memory(path, k, SHARED))
    whole = (tmp_path / "whole.moeash").read_bytes()
    assert (tmp_path / "streamed.moeash").read_bytes() == whole
    assert report.size_bytes == len(whole)
    original = container.read(tmp_path / "whole.moeash").shared
    assert report.ratio == original.original_bytes / len(whole)
    assert report.n_shared == original.n_shared
    assert (report.n_kept, report.n_entries) == (original.n_kept, original.n_entries)
    assert report.n_tied == 1
    assert moeash.inspect(tmp_path / "whole.moeash").bits_per_weight == pytest.approx(
        report.bits_per_weight, rel=0.01, abs=0.05
    )


def test_a_module_compressed_by_the_api_is_the_same_file(saved, tmp_path):
    module = torch.nn.Sequential()
    module.a = torch.nn.Linear(50, 40, bias=False)
    module.b = torch.nn.Linear(40, 30, bias=False)
    path = saved(module.state_dict())
    compress_checkpoint(path, tmp_path / "streamed.moeash", k=9)
    moeash.compress(module, tmp_path / "api.moeash", candidate={"k": 9}, progress=False)
    streamed = (tmp_path / "streamed.moeash").read_bytes()
    assert streamed == (tmp_path / "api.moeash").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("allowed", [0.3, 0.03])
def test_no_shared_tensor_moves_by_more_than_allowed(saved, tmp_path, dtype, allowed):
    path = saved(tensors(dtype))
    report = compress_checkpoint(path, tmp_path / "x.moeash", max_error=allowed)
    moeash.decompress(tmp_path / "x.moeash", tmp_path / "x.safetensors")
    before, after = load_file(path), load_file(tmp_path / "x.safetensors")
    assert before.keys() == after.keys()
    errors = {}
    for name, tensor in before.items():
        assert (after[name].dtype, after[name].shape) == (tensor.dtype, tensor.shape)
        if name in {*SHARED, "head.weight"} - set(report.kept_for_error):
            moved = torch.linalg.norm(after[name].double() - tensor.double())
            errors[name] = float(moved / torch.linalg.norm(tensor.double()))
        else:
            assert torch.equal(after[name], tensor), name
    assert len(errors) >= 2
    assert allowed / 2 < max(errors.values()) <= allowed
    assert report.worst_error == pytest.approx(max(errors.values()), rel=1e-6)
    assert errors[report.worst] == pytest.approx(report.worst_error, rel=1e-6)


def test_a_tensor_that_would_need_too_many_bins_is_kept_and_named(saved, tmp_path):
    torch.manual_seed(0)
    path = saved({"large": torch.randn(200, 300), "tiny": torch.randn(5, 5) * 1e-6})
    report = compress_checkpoint(path, tmp_path / "x.moeash", max_error=0.1)
    assert report.kept_for_error == ("tiny",)
    arrays = moeash.read(tmp_path / "x.moeash")
    np.testing.assert_array_equal(arrays["tiny"], load_file(path)["tiny"].numpy())
    assert np.unique(arrays["large"]).size < 100


@pytest.mark.parametrize("more_bins", [3, 0])
def test_a_sketch_that_is_too_hopeful_is_put_right_by_the_weights(
    saved, tmp_path, monkeypatch, more_bins
):
    monkeypatch.setattr(choosing, "MARGIN", 2.0)  # of what is not exact: it allows too much
    monkeypatch.setattr(compressing, "MORE_BINS", more_bins)
    torch.manual_seed(0)
    path = saved({"wide": torch.randn(100, 100), "narrow": torch.randn(100, 100) * 0.25})
    report = compress_checkpoint(path, tmp_path / "x.moeash", max_error=0.03)
    assert 0.005 < report.worst_error <= 0.03
    # With more bins both meet it; without any more the one that does not is kept.
    assert report.kept_for_error == (() if more_bins else ("narrow",))


@pytest.mark.parametrize("bits", [1.5, 4])
def test_the_bits_asked_for_are_about_those_taken(saved, tmp_path, bits):
    torch.manual_seed(0)
    path = saved({"a": torch.randn(300, 300), "b": torch.randn(300, 300) * 0.3})
    report = compress_checkpoint(path, tmp_path / "x.moeash", bits=bits)
    assert report.bits_per_weight == pytest.approx(bits, abs=0.15)


def test_the_readmes_snippet_runs(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(import moeash\n\nreport = .*?)```", readme, re.S)
    monkeypatch.chdir(tmp_path)
    save_file(tensors(), "model.safetensors")
    exec(snippet, {})
    assert len(capsys.readouterr().out.split()) >= 4
    assert load_file("again.safetensors").keys() == tensors().keys()


def test_patterns_say_what_is_shared(saved, tmp_path):
    path = saved(tensors())
    arguments = {"include": ["*.weight"], "exclude": ["fc.*"]}
    report = compress_checkpoint(path, tmp_path / "x.moeash", k=4, **arguments)
    assert report.n_shared == 300 * 16 + 8 * 27
    with pytest.raises(InputError, match=r"include pattern '\*.bias' .*'conv.bias'; floats of 2"):
        compress_checkpoint(path, tmp_path / "y.moeash", k=4, include=["*.bias"])
    with pytest.raises(InputError, match=r"nearest: 'fc\.weight'"):
        compress_checkpoint(path, tmp_path / "y.moeash", k=4, exclude=["fc.weigh"])
    with pytest.raises(InputError, match=r"no tensor to share.*change the patterns"):
        compress_checkpoint(path, tmp_path / "y.moeash", k=4, exclude=["*"])
    assert not (tmp_path / "y.moeash").exists()


def test_metadata_of_the_checkpoint_comes_back(tmp_path):
    from safetensors import safe_open

    save_file(tensors(), tmp_path / "m.safetensors", metadata={"format": "pt", "a": "b"})
    compress_checkpoint(tmp_path / "m.safetensors", tmp_path / "x.moeash", k=4)
    moeash.decompress(tmp_path / "x.moeash", tmp_path / "y.safetensors")
    with safe_open(tmp_path / "y.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt", "a": "b"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused_by_name(saved, tmp_path, value, dtype):
    found = tensors(dtype)
    found["fc.weight"][3, 4:6] = value
    path = saved(found)
    with pytest.raises(NonFiniteWeightError, match=r"'fc\.weight' has 2 non-finite weights"):
        compress_checkpoint(path, tmp_path / "x.moeash", k=4)
    found["fc.weight"][0] = 0.5
    compress_checkpoint(saved(found), tmp_path / "x.moeash", k=4, exclude=["fc.weight"])
    after = torch.from_numpy(moeash.read(tmp_path / "x.moeash")["fc.weight"])
    assert torch.equal(after.nan_to_num(7), found["fc.weight"].float().nan_to_num(7))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "needed exactly one of them"),
        ({"k": 4, "bits": 2}, "needed exactly one of them"),
        ({"k": 0}, r"needed a number of bins in \[1, 65536\]"),
        ({"k": 65537}, r"needed a number of bins in \[1, 65536\]"),
        ({"max_error": 1.0}, r"needed a relative error in \[1e-05, 1\)"),
        ({"max_error": float("nan")}, r"needed a relative error in \[1e-05, 1\)"),
        ({"bits": float("nan")}, "needed more than 0 and at most"),
    ],
)
def test_options_out_of_their_range_are_refused(saved, tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        compress_checkpoint(saved(tensors()), tmp_path / "x.moeash", **arguments)
    assert not (tmp_path / "x.moeash").exists()


def test_an_existing_file_is_replaced_only_when_asked(saved, tmp_path):
    path = saved(tensors())
    target = tmp_path / "x.moeash"
    target.write_bytes(b"old")
    with pytest.raises(InputError, match=r"x.moeash' exists; .*--force"):
        compress_checkpoint(path, target, k=4)
    assert target.read_bytes() == b"old"
    compress_checkpoint(path, target, k=4, force=True)
    assert moeash.verify(target).coder == "ans"
    with pytest.raises(InputError, match="is the checkpoint itself"):
        compress_checkpoint(path, path, k=4, force=True)


def test_a_full_disk_leaves_the_target_untouched(saved, tmp_path):
    import resource

    path = saved({"w": torch.randn(500, 400)})
    target = tmp_path / "x.moeash"
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(ExportError, match=r"cannot write .*File too large"):
            compress_checkpoint(path, target, k=64, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.safetensors", "x.moeash"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x02abc")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        compress_checkpoint(tmp_path / "x.safetensors", tmp_path / "y", k=4)
    with pytest.raises(CheckpointError, match="cannot read checkpoint"):
        compress_checkpoint(tmp_path / "gone.safetensors", tmp_path / "y", k=4)


CHILD = """
import sys, json
from moeash.compression.weights import choosing, compressing
from moeash.compression.weights.compressing import compress_checkpoint
from moeash.exports.decompressing import decompress
from tests.memory import most_bytes
source, folder = sys.argv[1:3]

before = most_bytes()
report = compress_checkpoint(source, folder + "/x.moeash", **json.loads(sys.argv[3]))
middle = most_bytes()
decompress(folder + "/x.moeash", folder + "/y.safetensors", max_bytes=1 << 34)
print(json.dumps([before, middle, most_bytes(), "torch" in sys.modules]))
"""


def big(path, n_bytes, dtype):
    """Write a checkpoint with one tensor of half of it, and one that is kept."""
    from moeash.networks.streaming.header import plan_file

    width = {"F32": 4, "BF16": 2}[dtype]
    name = {"F32": "float32", "BF16": "bfloat16"}[dtype]
    rows = n_bytes // 4096 // width // 8
    shapes = {"a": (4 * rows, 4096), "b": (3 * rows, 4096), "kept": (rows * 4096,)}
    head, placed = plan_file(path, [(n, name, s) for n, s in shapes.items()], {})
    rng = np.random.default_rng(0)
    block = rng.standard_normal(1 << 20, dtype=np.float32) * np.float32(0.02)
    content = (block if width == 4 else (block.view(np.uint32) >> 16).astype("u2")).tobytes()
    with path.open("wb") as file:
        file.write(head)
        for tensor in placed:
            for begin in range(0, tensor.size_bytes, len(content)):
                file.write(content[: tensor.size_bytes - begin])
    return max(tensor.size_bytes for tensor in placed)


def measured(tmp_path, n_bytes, dtype, **arguments):
    """Compress and decompress in a process of its own; return bytes of memory at three moments."""
    largest = big(tmp_path / "m.safetensors", n_bytes, dtype)
    told = output_of(CHILD, tmp_path / "m.safetensors", tmp_path, json.dumps(arguments))
    return largest, *json.loads(told)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_checkpoint(tmp_path):
    _, before, middle, after, has_torch = measured(tmp_path, 64 << 20, "BF16", k=16)
    assert not has_torch
    assert middle - before < 110 << 20  # buffers alone; a tensor is 32 MB, as indices and all more
    assert after - before < 130 << 20


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize(("dtype", "n_mib", "most_mib"), [("F32", 300, 150), ("BF16", 600, 350)])
def test_hundreds_of_megabytes_take_a_fraction_of_what_they_may(tmp_path, dtype, n_mib, most_mib):
    largest, _, middle, after, _ = measured(tmp_path, n_mib << 20, dtype, max_error=0.2)
    assert max(middle, after) < min(1.5 * largest + 500e6, most_mib << 20)
