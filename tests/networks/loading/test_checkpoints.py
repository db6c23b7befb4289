import argparse
import datetime
import os
import pathlib
import pickle
import struct
import warnings
import zipfile
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import moeash
from moeash.errors import CheckpointError
from moeash.networks.loading.checkpoints import fit, load_checkpoint
from tests.marks import slow
from tests.memory import refusal


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].cpu(), b[name].cpu()) for name in a)


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("nest", [(), ("state_dict",), ("model",), ("model", "state_dict")])
def test_torch_files_load_however_they_are_nested(tmp_path, nest, legacy):
    state = network().state_dict()
    saved = dict(state)
    for key in reversed(nest):
        saved = {key: saved, "epoch": 3, "best": 0.5}
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    tensors = load_checkpoint(tmp_path / "a.pt")
    assert equal(tensors, {".".join([*nest, name]): t for name, t in state.items()})
    target = network(1)
    fit(target, tensors, "a.pt")
    assert equal(snapshot(target), dict(state))


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_safetensors_load_by_suffix_or_content(tmp_path, name):
    state = network().state_dict()
    save_file(state, tmp_path / name)
    assert equal(load_checkpoint(tmp_path / name), dict(state))


def test_a_compressed_network_is_a_checkpoint_whatever_its_name(tmp_path):
    compressed = network(3)
    moeash.compress(compressed, tmp_path / "a.moeash", candidate={"k": 8}, progress=False)
    (tmp_path / "a.moeash").rename(tmp_path / "a.bin")
    want = {n: torch.tensor(a) for n, a in moeash.read(tmp_path / "a.bin").items()}
    tensors = load_checkpoint(tmp_path / "a.bin")
    assert equal(tensors, want)
    target = network(1)
    fit(target, tensors, "a.bin")
    assert equal(snapshot(target), want)
    assert not equal(snapshot(target), dict(compressed.state_dict()))


def cut_moeash(path):
    moeash.compress(network(), path, candidate={"k": 8}, progress=False)
    path.write_bytes(path.read_bytes()[:24])


def save_as_torch(saved, path):
    torch.save(saved, path)
    return lambda: torch.load(path, weights_only=False)


def save_as_pickle(saved, path):
    path.write_bytes(pickle.dumps(saved))
    return lambda: pickle.loads(path.read_bytes())


@pytest.mark.parametrize("save", [save_as_torch, save_as_pickle])
@pytest.mark.parametrize("nest", [False, True])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path, save, nest):
    mark, path = tmp_path / "it ran", tmp_path / "evil.pt"
    saved = {"state_dict": {"a": 1.0}, "x": Payload(mark)} if nest else Payload(mark)
    open_carelessly = save(saved, path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint(path)
    assert not mark.exists()
    open_carelessly()
    assert mark.exists()  # so the payload was live


@pytest.mark.parametrize(
    "value",
    [
        np.float64(93.2),
        np.float32(1),
        np.int64(3),
        np.bool_(True),
        np.arange(3.0),
        np.array(["a", None], dtype=object),
        argparse.Namespace(lr=0.1, betas=(0.9, 0.99), device=torch.device("cpu")),
        datetime.datetime(2026, 1, 1),
        pathlib.Path("runs/1"),
        {"deep": [np.float64(1), {"er": argparse.Namespace()}]},
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_a_training_script_stores_beside_its_tensors_is_passed_by(tmp_path, value, legacy):
    state = network().state_dict()
    saved = {"epoch": 3, "best": value, "state_dict": state}
    path = tmp_path / "a.pt"
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    target, allowed = network(1), set(torch.serialization.get_safe_globals())
    fit(target, load_checkpoint(path), path)
    assert equal(snapshot(target), dict(state))
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # nothing is allowed from now on for everybody
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"save the state_dict\(\) alone"):
        load_checkpoint(tmp_path / "whole.pt")


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{" + b" " * 100)


def bomb(path):
    torch.save({"a": torch.zeros(1 << 24)}, path.with_name("plain"))
    with (
        zipfile.ZipFile(path.with_name("plain")) as plain,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))


def cut(path):
    torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-300])


def cut_safetensors(path):
    save_file(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: None, "cannot read checkpoint .*No such file"),
        (lambda path: path.mkdir(), "cannot read checkpoint .*directory"),
        (lambda path: path.write_bytes(b""), "neither a safetensors, nor a torch, nor a moeash"),
        (lambda path: path.write_text("hello, world"), "neither a safetensors, nor a torch, nor"),
        (cut_moeash, "a.pt': the checksum does not match; the file is damaged or truncated"),
        (
            lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1\n"),
            "is a Git LFS pointer, not the file itself; run 'git lfs pull'",
        ),
        (bomb, "of .* bytes would unpack to 67,109,.*, which no checkpoint does"),
        (huge_header, "not a readable safetensors file"),
        (cut_safetensors, "not a readable safetensors file"),
        (cut, "not a readable torch file"),
        (
            lambda path: torch.save({"epoch": 3}, path),
            r"holds no tensors by name; found \['epoch'\]",
        ),
        (lambda path: torch.save([torch.zeros(2)], path), "holds no tensors by name; found list"),
    ],
)
def test_unreadable_files_are_refused_with_the_reason(tmp_path, write, message):
    path = tmp_path / "a.pt"
    write(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    "sparse", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr], ids=["coo", "csr"]
)
def test_a_sparse_tensor_is_the_tensor_it_stands_for(tmp_path, sparse):
    given, state = network(), network().state_dict()
    name = next(name for name, tensor in state.items() if tensor.ndim == 2)
    state[name] = state[name] * (torch.arange(state[name].shape[1]) % 2)
    torch.save({**state, name: sparse(state[name])}, tmp_path / "a.pt")
    fit(given, load_checkpoint(tmp_path / "a.pt"), "a.pt")
    assert torch.equal(given.state_dict()[name], state[name])


def uneven():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a prototype, torch says
        return torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.empty(3, 3, device="meta"), r"'model.a' .* without values \(device meta\)"),
        (uneven, r"'model.a' .* of uneven parts; save it as one, or leave it out"),
        (
            lambda: torch.sparse_coo_tensor(
                torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6)
            ),
            r"'model.a' .* is sparse and takes 4,000,000,000,000 bytes in full",
        ),
    ],
    ids=["meta", "nested", "huge"],
)
def test_what_is_no_plain_tensor_is_refused_by_name(tmp_path, make, message):
    torch.save({"model": {**network().state_dict(), "a": make()}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.pt")


@pytest.mark.slow
@given(data=st.data(), kind=st.sampled_from(["safetensors", "zip", "legacy"]))
@settings(deadline=None, max_examples=300)
def test_a_damaged_file_is_refused_or_harmless(tmp_path_factory, data, kind):
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    state = nn.Linear(2, 3).state_dict()
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(CheckpointError):  # anything else fails the test
        assert all(isinstance(t, torch.Tensor) for t in load_checkpoint(path).values())


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.model."],
)
def test_prefixes_of_wrappers_are_stripped(prefix):
    source, target = network(1), network(2)
    fit(target, {prefix + name: t for name, t in source.state_dict().items()}, "a.pt")
    assert equal(snapshot(target), snapshot(source))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "best_acc1": torch.tensor(76.1)},
        lambda state: {"best_acc1": torch.tensor(76.1), "state_dict": named("module.", state)},
        lambda state: {"n_averaged": torch.tensor(3), **named("module.", state)},
        lambda state: {"swa": {"n_averaged": torch.tensor(3), **named("module.", state)}},
        lambda state: {"model": named("backbone.", state), "lr": torch.zeros(3)},
        lambda state: {"a": {"b": [{"c": named("deep.", state)}]}, "x": torch.zeros(2, 2)},
        lambda state: {
            "state_dict": {
                **named("model.", state),
                "train_acc.tp": torch.zeros(3),
                "loss.weight": torch.ones(3),
            }
        },
        lambda state: {
            "model": state,
            "optimizer": {"state": {0: {"exp_avg": state["0.weight"]}}, "param_groups": [{}]},
        },
        lambda state: {"state_dict": state, "state_dict_ema": named("", state, shift=1)},
        lambda state: {"ema": named("", state, shift=1), "model_state_dict": state},
        lambda state: {"state_dict": {"0.weight": state["0.weight"]}, "averaged": state},
        lambda state: {
            **state,
            "total_ops": torch.tensor([5.0]),
            "confusion": torch.ones(3, 3).int(),
        },
    ],
)
def test_of_everything_in_a_file_the_network_is_taken_and_the_rest_named(tmp_path, wrap):
    source, target = network(1), network(2)
    torch.save(wrap(snapshot(source)), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"a.pt'.* was loaded, left aside: \w"):
        fit(target, load_checkpoint(tmp_path / "a.pt"), tmp_path / "a.pt")
    assert equal(snapshot(target), snapshot(source))


def named(prefix, state, *, shift=0):
    return {prefix + name: tensor + shift for name, tensor in state.items()}


def test_what_is_left_aside_is_named_by_its_first_key():
    state = snapshot(network(1))
    extra = {
        "optimizer.0.m": torch.zeros(2),
        "optimizer.0.v": torch.zeros(2),
        "best": torch.ones(1),
    }
    with pytest.warns(
        UserWarning, match=r"^'a.pt' \(under 'state_dict.'\) was loaded, left aside: "
    ):
        fit(network(2), {**named("state_dict.", state), **extra}, "a.pt")
    with pytest.warns(UserWarning, match=r"aside: optimizer \(2 tensors\), best$"):
        fit(network(2), {**named("state_dict.", state), **extra}, "a.pt")


def test_two_networks_that_fit_alike_are_refused():
    state = snapshot(network(1))
    target = network(2)
    before = snapshot(target)
    with pytest.raises(CheckpointError, match=r"under 'student.', 'teacher.' alike"):
        fit(target, {**named("teacher.", state), **named("student.", state, shift=1)}, "a.pt")
    assert equal(snapshot(target), before)


def test_a_deeper_network_of_the_same_names_is_not_cut_to_fit():
    deep = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(CheckpointError, match=r"unexpected: 2\.weight"):
        fit(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), deep.state_dict(), "a.pt")
    blocks = nn.ModuleDict({"layer": deep})
    with pytest.raises(CheckpointError, match=r"unexpected: layer\.2\.weight"):
        fit(nn.ModuleDict({"layer": deep[:2]}), blocks.state_dict(), "a.pt")


def test_a_part_of_a_strange_prefix_is_no_network():
    tensors = named("some.", {"0.weight": torch.zeros(2, 1, 3, 3)})
    with pytest.raises(CheckpointError, match=r"8 missing: .* 1 unexpected: some.0.weight"):
        fit(network(2), tensors, "a.pt")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        slow(torch.compile),
        slow(lambda module: torch.compile(nn.DataParallel(module))),
        slow(lambda module: nn.Sequential(*module[:3], torch.compile(module[3]))),
        lambda module: nn.ModuleDict({"model": module}),
    ],
)
def test_a_wrapped_network_takes_the_file_of_the_plain_one_and_the_other_way_round(wrap):
    source, target = network(1), network(2)
    state = snapshot(source)
    wrapped = wrap(target)
    fit(wrapped, state, "a.pt")
    assert equal(snapshot(target), state)
    again = network(3)
    fit(again, wrapped.state_dict(), "a.pt")
    assert equal(snapshot(again), state)


def test_names_that_only_a_wrapper_s_part_tells_apart_stay():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 2))
            self.module = nn.Linear(2, 2, bias=False)

    source, target = Odd(), Odd()
    fit(target, source.state_dict(), "a.pt")
    assert equal(snapshot(target), snapshot(source))


def test_a_file_that_holds_itself_ends(tmp_path):
    saved = {"state_dict": network(1).state_dict()}
    saved["again"] = saved
    torch.save(saved, tmp_path / "a.pt")
    target = network(2)
    fit(target, load_checkpoint(tmp_path / "a.pt"), "a.pt")
    assert equal(snapshot(target), snapshot(network(1)))


def test_two_tensors_of_one_name_are_refused(tmp_path):
    torch.save({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"two tensors called 'a\.b'"):
        load_checkpoint(tmp_path / "a.pt")


def test_a_prefix_that_is_the_network_s_own_name_stays():
    source = nn.ModuleDict({"model": nn.Linear(2, 2)})
    target = nn.ModuleDict({"model": nn.Linear(2, 2)})
    fit(target, source.state_dict(), "a.pt")
    assert equal(snapshot(target), snapshot(source))


def test_floats_of_another_precision_are_converted():
    source, target = network(1), network(2)
    fit(
        target,
        {n: t.double() if t.is_floating_point() else t for n, t in snapshot(source).items()},
        "a",
    )
    assert equal(snapshot(target), snapshot(source))


def test_files_from_before_num_batches_tracked_fit():
    source, target = network(1), network(2)
    state = snapshot(source)
    del state["1.num_batches_tracked"]
    fit(target, state, "a.pt")
    assert equal(snapshot(target), snapshot(source))


def changed(**changes):
    state = snapshot(network(1))
    for name, value in changes.items():
        state[name] = value
    return state


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"0.weight": torch.zeros(2, 1, 3, 3)}, r"7 missing: 0.bias, 1.weight, 1.bias and 4 more"),
        (changed(extra=torch.zeros(2)), "1 unexpected: extra"),
        (changed(**{"3.scale": torch.zeros(1)}), "1 unexpected: 3.scale"),
        (
            changed(**{"5.weight": torch.zeros(3, 3), "n": torch.tensor(1)}),
            "1 unexpected: 5.weight; left aside: n",
        ),
        (
            changed(**{"3.weight": torch.zeros(10, 8)}),
            r"1 of another shape: 3.weight \(10, 8\) for \(3, 8\)",
        ),
        (changed(**{"3.weight": torch.zeros(3, 8, dtype=torch.int8)}), "1 of another kind"),
        (
            changed(**{"3.bias": torch.zeros(4), "odd": torch.zeros(2)}),
            "1 unexpected: odd; 1 of another shape",
        ),
    ],
)
def test_a_misfit_is_listed_and_leaves_the_network_alone(tensors, message):
    target = network(2)
    before = snapshot(target)
    with pytest.raises(CheckpointError, match=message) as caught:
        fit(target, tensors, "a.pt")
    assert "'a.pt' does not fit Sequential" in str(caught.value)
    assert equal(snapshot(target), before)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_a_tied_parameter_needs_one_of_its_names():
    target = Tied()
    fit(target, {"head.weight": torch.ones(5, 4)}, "a")
    assert target.embedding.weight.eq(1).all()
    assert target.head.weight is target.embedding.weight


def test_two_values_for_one_tied_parameter_are_refused():
    target = Tied()
    before = snapshot(target)
    with pytest.raises(
        CheckpointError, match=r"tied in the network: head\.weight and embedding.weight"
    ):
        fit(target, {"embedding.weight": torch.ones(5, 4), "head.weight": torch.zeros(5, 4)}, "a")
    assert equal(snapshot(target), before)


@pytest.mark.slow
def test_a_file_larger_than_memory_is_refused_in_words(tmp_path):
    save_file({"a": torch.zeros(3)}, path := tmp_path / "vast.safetensors")
    os.truncate(path, 1 << 40)
    imports = "from moeash.networks.loading.checkpoints import load_checkpoint"
    said = refusal(path, imports, "load_checkpoint(sys.argv[1])", "CheckpointError", gib=8)
    assert "vast.safetensors' is not a readable safetensors file: " in said
