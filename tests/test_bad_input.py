"""Bad input, as a person meets it: a clear line, the right exit code, and nothing lost.

The order is that of the list in the founding issue.
"""

import os
import pickle
import resource
import sqlite3
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import moeash as package
from moeash.codec import container
from moeash.errors import (
    CheckpointError,
    ContainerVersionError,
    CorruptContainerError,
    ExportError,
    InputError,
    NonFiniteWeightError,
    SpecError,
)
from moeash.exports.building import building
from moeash.exports.export import export_solution
from moeash.networks.loading.sources import load_network
from moeash.study.plan import task_of
from tests.databases import stored_at
from tests.marks import slow


def network(values: float | None = None) -> nn.Sequential:
    """A small network; with one value in every weight if given."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    if values is not None:
        for parameter in module.parameters():
            nn.init.constant_(parameter, values)
    return module


def closeness(module: nn.Module) -> float:
    """A deterministic number that depends on every weight."""
    torch.manual_seed(1)
    with torch.inference_mode():
        return float(module(torch.randn(5, 8)).tanh().sum())


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused_by_name_with_the_way_out(tmp_path, value):
    module = network()
    module[2].weight.data[1, 3] = value
    message = r"parameter '2.weight' has 1 non-finite weights of 64; .*exclude=\['2.weight'\]"
    with pytest.raises(NonFiniteWeightError, match=message):
        package.search(module, evaluate=closeness)
    with pytest.raises(NonFiniteWeightError, match=message):
        package.compress(module, tmp_path / "x.moeash", candidate={"k": 4})
    assert list(tmp_path.iterdir()) == []


def test_a_constant_tensor_among_others_works(tmp_path):
    module = network()
    nn.init.constant_(module[2].weight, 0.25)
    package.compress(module, tmp_path / "x.moeash", candidate={"k": 8})
    decoded = package.read(tmp_path / "x.moeash")["2.weight"]
    assert len(np.unique(decoded)) == 1


EXACT = {"codec": {"kept": "float32"}}


@pytest.mark.parametrize("k", [1, 2, 256])
def test_an_all_constant_network_has_one_entry_and_decodes_exactly(tmp_path, k):
    package.compress(network(0.5), tmp_path / "x.moeash", candidate={"k": k}, spec=EXACT)
    assert container.read(tmp_path / "x.moeash").shared.n_entries == 1
    for array in package.read(tmp_path / "x.moeash").values():
        np.testing.assert_array_equal(array, np.float32(0.5))


def test_more_bins_than_distinct_values_give_no_more_entries_than_values(tmp_path):
    module = network()
    for parameter in module.parameters():
        parameter.data = torch.sign(parameter.data)
    package.compress(module, tmp_path / "x.moeash", candidate={"k": 4096})
    shared = container.read(tmp_path / "x.moeash").shared
    assert shared.n_entries == 2
    np.testing.assert_array_equal(shared.decoded()["0.weight"], module[0].weight.detach().numpy())


MISSPELT = {"network": {"include": ["0.weihgt"]}}


def test_a_network_without_shared_parameters_says_which_there_are(tmp_path):
    module = nn.Sequential(nn.BatchNorm1d(4))
    with pytest.raises(InputError, match="share") as caught:
        package.search(module, evaluate=closeness)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"0\.weihgt"):
        package.search(network(), evaluate=closeness, spec=MISSPELT)


# ------------------------------------------------------------------ data


def write_images(path, labels):
    images = np.random.default_rng(0).random((len(labels), 1, 8, 8), dtype=np.float32)
    np.savez(path, x=images, y=np.array(labels))


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.splits.search={part='all',range=[5,5]}"], "empty|range"),
        (["data.splits.search={part='all',count=0}"], "count"),
        (["data.splits.search={part='all',range=[0,9999]}"], "9999|1797"),
        (["data.splits.holdout={part='all',range=[0,10]}"], "overlap|share"),
        (["data.splits={holdout={part='all',range=[0,10]}}"], "search split"),
        (["data.source=npz", "data.root=nowhere.npz"], "nowhere.npz"),
    ],
)
def test_splits_that_cannot_be_measured_are_refused(moeash, tiny, overrides, message):
    flags = [part for override in overrides for part in ("--set", override)]
    answer = moeash("run", tiny.spec, "--set", "name=other", *flags)
    assert (answer.code, answer.out) == (2, "")
    line = answer.err.splitlines()[-1]
    assert line.startswith("moeash: ")
    assert any(word in line for word in message.split("|")), line
    assert "Traceback" not in answer.err
    assert moeash("list", "--json").json == []


def test_a_label_beyond_the_networks_outputs_is_refused(moeash, tiny, tmp_path):
    labels = np.arange(160) % 12
    write_images(tmp_path / "images.npz", labels)
    flags = ["--set", "name=other", "--set", "data.source=npz", "--set", "data.root=images.npz"]
    answer = moeash("run", tiny.spec, *flags)
    assert answer.code in (1, 2)
    assert "label 11 but the network has only 10 outputs" in answer.err
    assert moeash("list", "--json").json == []


# ------------------------------------------------------------------ checkpoints


@pytest.fixture
def run_with_checkpoint(moeash, tiny):
    def run(path):
        return moeash("run", tiny.spec, "--set", "name=c", "--set", f"network.checkpoint={path}")

    return run


def test_a_checkpoint_of_another_shape_is_refused_by_name(run_with_checkpoint, tmp_path):
    state = {name: t.clone() for name, t in load_network("digits-cnn").state_dict().items()}
    state["fc2.weight"] = torch.zeros(11, state["fc2.weight"].shape[1])
    save_file(state, tmp_path / "c.safetensors")
    answer = run_with_checkpoint("c.safetensors")
    assert answer.code == 2
    line = answer.err.splitlines()[-1]
    assert "fc2.weight" in line and "11" in line and "c.safetensors" in line


def test_a_pickle_with_code_is_refused_and_its_code_not_run(run_with_checkpoint, tmp_path):
    ran = tmp_path / "ran"

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {ran}",)

    for name, save in (("zip.pt", torch.save), ("raw.pt", lambda o, p: p.write_bytes(o))):
        content = {"w": Payload()} if name == "zip.pt" else pickle.dumps({"w": Payload()})
        save(content, tmp_path / name)
        answer = run_with_checkpoint(name)
        assert answer.code == 2
        *doing, line = answer.err.splitlines()
        assert doing == ["loading the network"] and name in line
    assert not ran.exists()


def test_a_missing_checkpoint_is_named(run_with_checkpoint):
    answer = run_with_checkpoint("nowhere.safetensors")
    assert answer.code == 2
    assert "nowhere.safetensors" in answer.err and "o such file" in answer.err.lower()
    with pytest.raises(CheckpointError, match="nowhere"):
        load_network("digits-cnn", checkpoint="nowhere.safetensors")


# ------------------------------------------------------------------ targets


@contextmanager
def full_disk(limit: int):
    """Let no file of this process grow beyond limit bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("target", ["folder", "nowhere/x"])
@pytest.mark.parametrize(
    "command, suffix",
    [
        (["export", "tiny", "--pick", "smallest"], ""),
        (["decompress", "FILE"], ""),
        slow(["plot", "tiny"], ".png"),
    ],
)
def test_a_target_that_cannot_be_written_is_named(moeash, tiny, tmp_path, command, suffix, target):
    (tmp_path / f"folder{suffix}").mkdir()
    stored = ["--storage", tiny.storage] if "tiny" in command else []
    arguments = [str(tiny.file) if a == "FILE" else a for a in command]
    answer = moeash(*arguments, *stored, "--to", target + suffix)
    assert (answer.code, answer.out) == (1, "")
    assert "cannot write" in answer.err and target + suffix in answer.err
    assert answer.err.count("\n") == 1
    assert [p.name for p in tmp_path.rglob("*")] == [f"folder{suffix}"]


@pytest.mark.parametrize("command", ["export", "decompress"])
def test_a_full_disk_keeps_the_existing_file(tiny, tmp_path, command):
    target = tmp_path / "x"
    target.write_bytes(b"before")
    study = package.open_study("tiny", tiny.storage)
    solution = study.pick("smallest")  # SQLite needs room for its own index even to read
    task = task_of(study)
    with building(study) as build:
        shared = build(solution.recipe)
    with full_disk(1000), pytest.raises(ExportError, match=r"cannot write .*File too large"):
        if command == "export":
            export_solution(task, solution, lambda recipe: shared, target)
        else:
            package.decompress(tiny.file, target, force=True)
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"before"


@pytest.mark.parametrize("command", [["export", "tiny"], ["decompress", "FILE"]])
def test_an_existing_file_is_replaced_only_where_that_is_asked_for(moeash, tiny, tmp_path, command):
    (tmp_path / "x").write_bytes(b"before")
    arguments = [str(tiny.file) if word == "FILE" else word for word in command]
    stored = ["--storage", tiny.storage] if "tiny" in command else []
    answer = moeash(*arguments, *stored, "--to", "x")
    assert (answer.code, answer.out) == (2, "")
    assert "'x' exists; choose another name, or replace it with force (--force)" in answer.err
    assert (tmp_path / "x").read_bytes() == b"before"
    assert moeash(*arguments, *stored, "--to", "x", "--force").code == 0
    assert (tmp_path / "x").read_bytes() != b"before"


@pytest.mark.slow
def test_a_full_disk_ends_a_study_that_continues_later(moeash, bare, tmp_path):
    flags = ["--set", "name=full", "--set", "method.k=[6,40]", "--set", "merge.trials=0"]
    with full_disk(200_000):  # room for the schema and some evaluations
        answer = moeash("run", bare, *flags)
    assert answer.code == 1
    line = answer.err.splitlines()[-1]
    assert line.startswith("moeash: database") and "everything stored so far is safe" in line
    stored = moeash("status", "full", "--json").json["evaluations"]
    assert 0 < stored < 35
    answer = moeash("run", bare, *flags)
    assert answer.code == 0
    assert f"continuing after {stored} stored evaluations" in answer.err
    assert moeash("status", "full", "--json").json["evaluations"] == 35


# ------------------------------------------------------------------ containers


def test_every_truncation_and_flipped_byte_is_refused(moeash, tiny, tmp_path):
    data = tiny.file.read_bytes()
    rng = np.random.default_rng(0)
    places = [*range(12), *rng.integers(0, len(data), 20), len(data) - 1]
    damaged = [data[:n] for n in places]
    damaged += [data[:n] + bytes([data[n] ^ (1 << (n % 8))]) + data[n + 1 :] for n in places]
    damaged += [data + b"\0", b""]
    path = tmp_path / "x.moeash"
    for content in damaged:
        path.write_bytes(content)
        answer = moeash("verify", path)
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("moeash: ") and answer.err.count("\n") == 1
        assert "a bug?" not in answer.err


def resigned(body: bytes) -> bytes:
    """Give altered bytes a checksum that fits: damage somebody made on purpose."""
    return body + container.checksum_of(body)


def test_absurd_sizes_are_refused_before_memory_is_taken():
    huge = b"\xff\xff\xff\xff\xff\xff\xff\x7f"
    head = container.MAGIC + container.VERSION.to_bytes(2, "little") + b"\0\0"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for lengths in (huge * 3, huge + b"\0\0", b"\0" + huge + b"\0", b"\0\0" + huge):
        with pytest.raises(CorruptContainerError):
            container.decode(resigned(head + lengths + b"\0" * 40))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # kB


def test_a_newer_container_is_named_as_such(moeash, tiny, tmp_path):
    data = bytearray(tiny.file.read_bytes())
    data[4:6] = (container.VERSION + 1).to_bytes(2, "little")
    (tmp_path / "x.moeash").write_bytes(resigned(bytes(data[: -container.CHECKSUM_BYTES])))
    answer = moeash("inspect", "x.moeash")
    assert answer.code == 1
    assert f"format version {container.VERSION + 1}" in answer.err and "upgrade" in answer.err
    with pytest.raises(ContainerVersionError):
        package.read(tmp_path / "x.moeash")


# ------------------------------------------------------------------ databases


@pytest.mark.slow
def test_a_locked_database_is_a_clear_refusal(moeash, bare, tmp_path, monkeypatch):
    from moeash.study.storage import sql

    monkeypatch.setitem(sql.SqlStorage.__init__.__kwdefaults__, "busy_timeout_s", 0.2)
    stored_at(tmp_path / "moeash.db").close()
    with sqlite3.connect(tmp_path / "moeash.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        answer = moeash("run", bare, "--set", "name=second")
        other.execute("ROLLBACK")
    assert answer.code == 1
    assert "database is locked; another process kept writing" in answer.err
    assert moeash("run", bare, "--set", "name=second").code == 0


def test_a_newer_database_is_left_alone(moeash, tiny, tmp_path):
    path = tmp_path / "moeash.db"
    path.write_bytes((tiny.folder / "moeash.db").read_bytes())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    before = path.read_bytes()
    for arguments in (["list"], ["front", "tiny"], ["run", tiny.spec]):
        answer = moeash(*arguments)
        assert answer.code == 1
        assert "schema 9999" in answer.err and "install a newer moeash" in answer.err
    assert path.read_bytes() == before


# ------------------------------------------------------------------ Python


@pytest.mark.parametrize(
    "options, message",
    [
        ({"population": 1}, "search.population is 1, needed an integer of at least 2"),
        ({"generations": 0}, "budget.generations is 0, needed an integer of at least 1"),
        ({"spec": {"merge": {"trails": 1}}}, "unknown key 'merge.trails'; nearest: 'trials'"),
        ({"method": {"name": "unifrom"}}, "no method 'unifrom'; nearest: 'uniform'"),
        (
            {"spec": {"search": {"objectives": ("bytes",)}}},
            "search.objectives[0] is 'bytes', needed",
        ),
    ],
)
def test_search_refuses_options_in_one_line(options, message):
    with pytest.raises(SpecError) as caught:
        package.search(network(), evaluate=closeness, **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_failing_search_leaves_no_temporary_storage(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(module):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        package.search(network(), evaluate=broken)
    assert list(tmp_path.iterdir()) == []
