import os
import pickle
import struct
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from moeash.errors import CheckpointError
from moeash.networks.checkpoints import fit, load_checkpoint


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    assert equal(load_checkpoint(tmp_path / "a.pt"), dict(state))


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_safetensors_load_by_suffix_or_content(tmp_path, name):
    state = network().state_dict()
    save_file(state, tmp_path / name)
    assert equal(load_checkpoint(tmp_path / name), dict(state))


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


def test_a_whole_pickled_network_is_refused(tmp_path):
    torch.save(network(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"save the state_dict\(\) alone"):
        load_checkpoint(tmp_path / "whole.pt")


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 62) + b"{" + b" " * 100)


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
        (lambda path: path.write_bytes(b""), "neither a safetensors nor a torch file"),
        (lambda path: path.write_text("hello, world"), "neither a safetensors nor a torch file"),
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
        (changed(extra=torch.zeros(1)), "1 unexpected: extra"),
        (
            changed(**{"3.weight": torch.zeros(10, 8)}),
            r"1 of another shape: 3.weight \(10, 8\) for \(3, 8\)",
        ),
        (changed(**{"3.weight": torch.zeros(3, 8, dtype=torch.int8)}), "1 of another kind"),
        (
            changed(**{"3.bias": torch.zeros(4), "odd": torch.zeros(1)}),
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
