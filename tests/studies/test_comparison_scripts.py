"""The comparison's scripts still run: on networks of seconds, with everything else as it is."""

import ast
import importlib
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from moeash.api.studies import run_with_output
from moeash.core.codebook import SharedWeights
from moeash.data.splits import load_splits
from moeash.study.spec.reading import load_spec
from tests.backends.studies import toml
from tests.contracts.method import digits_network
from tests.digits import BASE, merged
from tests.studies.conftest import SCRIPTS

COARSER = 7
"""Bins with which nearest entries take about the bytes of feedback on 20 bins."""


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_script_takes_from_moeash_is_there(path):
    """Of the peers' scripts too, whose peers are not installed here."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("moeash"):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def spec_of(folder, **changes):
    """Write the spec of a study of digits and return its path."""
    calibration = {"splits": {"calibration": {"part": "all", "count": 60, "seed": 0}}}
    path = folder / "digits.toml"
    path.write_text(toml(merged(BASE, {"data": calibration, **changes})))
    return path


@pytest.mark.slow
def test_every_row_of_the_ablation_compresses(script, tmp_path, monkeypatch):
    bench_of, rows_of, ablation = map(script, ("ablation_bench", "ablation_rows", "ablation"))
    scale = bench_of.Scale(k=20, kl=0.02, calibration=60, measured=100)
    monkeypatch.setitem(bench_of.SCALES, "digits-cnn", scale)
    bench = bench_of.Bench(spec_of(tmp_path))
    points = {}
    for row in rows_of.ROWS:
        row = replace(row, settings=replace(row.settings, sketches=1))
        own = bench.with_norms_folded if row.folded else bench
        made = row.assign(own, row, scale.k)
        shared = made if isinstance(made, SharedWeights) else own.pack(made, row)
        points[row.name] = [{"k": scale.k} | own.measure(shared, row.coder)]
    odd = {
        name: point
        for name, (point,) in points.items()
        if not (0 < point["kl"] < 3 and 2000 < point["size_bytes"] < 60_000)
    }
    assert odd == {}
    # On one grid rows as they are take thrice the bytes, so nearest entries get a coarser one.
    row = next(row for row in rows_of.ROWS if row.name == "nearest entries")
    coarser = bench.measure(bench.pack(row.assign(bench, row, COARSER), row), row.coder)
    feedback = points["feedback"][0]
    assert feedback["size_bytes"] < coarser["size_bytes"]
    assert feedback["kl"] < coarser["kl"]
    table = ablation.table_at(scale.k, points)
    assert table.count("\n") == 1 + len(ablation.RULES)


@pytest.mark.slow
def test_every_row_of_distilling_trains(script, tmp_path, monkeypatch):
    names = ("ablation_bench", "distilling", "distilling_rows")
    bench_of, distilling, variants = map(script, names)
    scale = bench_of.Scale(k=20, kl=0.02, calibration=60, measured=100)
    monkeypatch.setitem(bench_of.SCALES, "digits-cnn", scale)
    for name, value in {"K": 20, "NEXT_K": 24, "NEAREST_K": 24, "UNTRAINED": (20,)}.items():
        monkeypatch.setattr(distilling, name, value)
    monkeypatch.setattr(variants.Averaged, "DECAY", 0.5)  # here are few steps
    path = spec_of(tmp_path)
    bench = bench_of.Bench(path)
    images = load_splits(load_spec(path).task().data)["calibration"]
    files = {}
    for row in distilling.ROWS:
        step = replace(row.step, epochs=20, learning_rate=12 * row.step.learning_rate)
        files[row.name] = distilling.run(bench, images, replace(row, step=step, rates=(10.0,)))
    for name, (point,) in files.items():
        assert 2000 < point["size_bytes"] < 60_000, name
        assert point["kl"] > 0, name
    points = {}
    for name, (point,) in files.items():
        points.setdefault((point["size_bytes"], point["kl"]), []).append(name)
    assert [names for names in points.values() if len(names) > 1] == [], "each in its own way"
    rows = {name: [point, {**point, "kl": 2 * point["kl"]}] for name, (point,) in files.items()}
    assert distilling.table("digits", rows).count("\n") == 1 + len(files)


def finished(script, folder, storage, **changes):
    """Run a small study; return it and its output, its front's file, and a bench for it."""
    path = spec_of(
        folder,
        budget={"generations": 1},
        search={"population": 4},
        output={"folder": str(folder / "out")},
        **changes,
    )
    study, output = run_with_output(path, storage=storage)
    summary = json.loads((folder / "out" / "front.json").read_text())
    return study, output, summary, script("measure").Bench(study.spec.task())


@pytest.mark.slow
def test_solutions_of_a_front_are_measured_as_files(script, tmp_path):
    study, output, summary, bench = finished(script, tmp_path, str(tmp_path / "a.db"))
    solutions = script("solutions")
    rows = solutions.measured(summary, study.spec, bench, None)
    found = {row["solution"]: row for row in rows}
    assert set(found) == {s.id for s in study.front()} and output is not None
    for solution in study.front():
        row = found[solution.id]
        assert row["size_bytes"] == solution.size_bytes
        assert row["search_top1"] == solution.metric
        assert row["peer"] == "moeash uniform" and row["setting"] == str(solution.recipe)


@pytest.mark.slow
def test_what_was_distilled_is_measured_from_its_storage(script, tmp_path):
    storage = str(tmp_path / "a.db")
    study, _, summary, bench = finished(
        script,
        tmp_path,
        storage,
        evaluation={"metric": "neg_divergence", "max_drop": 3.0},
        distill={"solutions": 1, "epochs": 60, "rates": [0.3]},
    )
    solutions = script("solutions")
    with pytest.raises(SystemExit, match="give the --storage it ran in"):
        solutions.measured(summary, study.spec, bench, None)
    (row,) = solutions.measured(summary, study.spec, bench, storage)
    (distilled,) = (s for s in study.front() if "distilled" in str(s.recipe))
    assert row["peer"] == "moeash uniform distilled" and row["solution"] == distilled.id
    assert row["size_bytes"] == distilled.size_bytes


@pytest.mark.slow
def test_gpfqs_rule_and_nearest_rounding_are_compared(script, tmp_path):
    claim = script("gpfq_claim")
    bench = claim.Bench(spec_of(tmp_path), 20, 100)
    for assign in (bench.gpfq, bench.nearest):
        assert 0.5 < bench.top1(assign(16, 4.0), "search") <= 1
    assert bench.top1({}, "holdout") > 0.97


@pytest.mark.slow
def test_nncodecs_script_runs_beside_a_torchvision_that_loads_its_own_operators(tmp_path):
    """With another package in NNCodec's place, which codes nothing."""
    (tmp_path / "nncodec").mkdir()
    (tmp_path / "nncodec/__init__.py").write_text("import torchvision\n")
    (tmp_path / "nncodec/nn.py").write_text(
        "import pickle\n"
        "encode = lambda floats, args: pickle.dumps(floats)\n"
        "decode = lambda stream: pickle.loads(stream)\n"
    )
    (tmp_path / "nncodec-0.dist-info").mkdir()
    (tmp_path / "nncodec-0.dist-info/METADATA").write_text("Name: nncodec\nVersion: 0\n")
    save_file({"w": torch.ones(3, 4)}, tmp_path / "a.safetensors")
    script = SCRIPTS / "peer_nncodec.py"
    arguments = [tmp_path / "a.safetensors", "--qp", "-20", "--to", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, script, *arguments],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


@pytest.mark.slow
def test_files_of_onnx_are_measured_with_a_codebook_and_with_floats(
    script, tmp_path, tiny, monkeypatch
):
    pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")
    to = tmp_path / "runtimes.json"
    runtimes = script("runtimes")
    arguments = [str(tiny.file), str(tiny.spec), "--seconds", "0.05", "--to", str(to)]
    monkeypatch.setattr(sys, "argv", ["runtimes.py", *arguments])
    runtimes.main()
    rows = json.loads(to.read_text())
    assert [row["weights"] for row in rows] == ["codebook", "float"] * 2
    assert rows[0]["size_bytes"] < rows[1]["size_bytes"] / 3
    assert all(0 < row["pass_1_ms"] <= row["pass_100_ms"] for row in rows)
    assert runtimes.table(rows).count("\n") == 1 + len(rows)


@pytest.mark.slow
def test_one_network_is_the_same_in_every_life(script, tmp_path, tiny, monkeypatch):
    pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")
    to = tmp_path / "lives.json"
    lives = script("lives")
    arguments = [str(tiny.file), str(tiny.spec), "--images", "60", "--to", str(to)]
    monkeypatch.setattr(sys, "argv", ["lives.py", *arguments])
    lives.main()
    first, *rows = json.loads(to.read_text())
    assert [row["format"] for row in rows] == [
        "moeash",
        "moeash",
        "safetensors",
        "torch",
        "onnx",
        "c",
    ]
    assert first["loaded by"] == "float network" and first["moved"] > 1e-3
    assert {row["images"] for row in rows} == {60}
    for row in rows:
        assert row["top1"] == rows[0]["top1"] and row["same_class"] == 1
        assert row["moved"] <= (1e-5 if row["format"] == "onnx" else 0)
    assert lives.table(rows).count("\n") == 1 + len(rows)


def shape(value):
    """Return the keys and types of a document; a list is like its first element."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) else type(value)


def test_the_table_of_devices_is_that_of_its_file(script):
    devices = script("devices")
    table = devices.table(json.loads(devices.RESULT.read_text()))
    assert f"<!-- devices -->\n{table}\n<!-- end devices -->" in (SCRIPTS / "README.md").read_text()


@pytest.fixture
def arithmetic_as_before():
    """Undo what a script asked of torch."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.mark.slow
@pytest.mark.usefixtures("arithmetic_as_before")
def test_a_device_is_measured_beside_the_cpu(script, tmp_path, monkeypatch):
    """The CPU as its own device: everything is the same there."""
    devices = script("devices")
    kept = ('codec.kept="float16"',)
    tiny = {
        "STUDIES": spec_of(tmp_path).parent,
        "CASES": (devices.Case("digits", "uniform", [{"k": 6}, {"k": 40}], kept),),
        "NETWORKS": {"digits": ((1, 8, 8), (16, 64))},
        "LOADED": ("digits", 16),
        "PASSES": 2,
        "LOADS": 1,
        "THREADS": 1,
    }
    for name, value in tiny.items():
        monkeypatch.setattr(devices, name, value)
    to = tmp_path / "devices.json"
    monkeypatch.setattr(sys, "argv", ["devices.py", "cpu", "--to", str(to)])
    devices.main()
    result = json.loads(to.read_text())
    assert shape(result) == shape(json.loads(devices.RESULT.read_text()))
    assert result["device"] == "cpu"
    (row,) = result["candidates"]
    assert row["cpu_metric"] == row["device_metric"] and all(row["same_weights"])
    assert row["cpu_metric"][0] < 0.9 < row["cpu_metric"][1]
    coarse, fine = result["passes"]
    assert coarse["small_bytes"] < fine["small_bytes"] < fine["dense_bytes"] / 2
    assert [row["coder"] for row in result["loads"]] == ["ans", "huffman"]
    assert all(row["plain_bytes"] > 5 * row["file_bytes"] for row in result["loads"])
    assert all(row["equal"] for row in result["passes"] + result["loads"])
    lines = devices.table(result).splitlines()
    assert [line.partition("|")[2].split(" | ")[0] for line in lines if "yes" in line] == [
        *[" digits"] * 3,
        *[" digits, k = 16"] * 2,
    ]
    assert len(lines) == 3 * 2 + 5 + 2


def test_entquants_rule_is_compared_with_uniform_bins_at_its_bytes(
    script, tmp_path, capsys, monkeypatch
):
    torch.manual_seed(0)
    matrix = torch.randn(300, 64) * torch.rand(300, 1)
    save_file({"w": matrix}, tmp_path / "x.safetensors")
    entquant = script("entquant")
    monkeypatch.setattr(sys, "argv", ["entquant.py", str(tmp_path / "x.safetensors"), "w"])
    entquant.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(entquant.BINS) + len(entquant.WEIGHTS)
    found = list(entquant.entquant(matrix.numpy()))
    assert [n for _, n, *_ in found] == sorted(n for _, n, *_ in found)
    errors = [whole for _, _, whole, _ in found]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.slow
def test_what_large_networks_take_is_measured_of_any(script):
    large = script("large")
    network, pictures = digits_network().module, torch.rand(20, 1, 8, 8)
    row = large.measured(network, pictures)
    assert {"measuring curvature", large.ASSIGNING, large.WRITING} <= set(row["seconds"])
    assert 0 < row["curvature_s"] < sum(row["seconds"].values())
    assert row["of_curvature_s"] > 0 and row["load_s"] > 0 and row["pictures"] == 20
    assert row["passes"]["recorded"] == 40, "curvature, and how rows err together"
    assert row["passes"]["forward"] > 20 and row["of_passes_s"] > row["of_curvature_s"]
    columns, rows = (9, 16 * 9, 32 * 16, 96), (16, 32, 96, 10)
    assert row["factors_gb"] == pytest.approx(4e-9 * sum(n * n for n in (*columns, *rows)))
    name = next(iter(large.CASES))
    assert large.table({name: row}).count("\n") == 2
