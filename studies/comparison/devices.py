"""A GPU beside the CPU: evaluating candidates, running on compressed weights, loading files.

    python studies/comparison/devices.py cuda

Writes ``devices.json`` and the tables of README.md. Candidates are evaluated on the CPU, with four
threads, and on the device. On the device a network runs from its compressed weights and, in turns,
with the same weights decoded; ``moeash.load`` reads a file, and safetensors the same weights as
floats. Times are medians of a clock. Networks of torchvision have random weights.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tables import put_table
from torch import nn

import moeash
import moeash.nn
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job
from moeash.networks.devices import name_of
from moeash.networks.loading.sources import load_network, read_network
from moeash.runtime.threads import available_cores
from moeash.study.spec.reading import load_spec

RESULT = Path(__file__).with_name("devices.json")
STUDIES = Path(__file__).parents[1]
THREADS = 4
BATCHES = (64, 1)
PASSES, LOADS, UNCOUNTED = 20, 5, 3
CODERS = ("ans", "huffman")

CIFAR = (
    'data.splits={search={part="test",range=[0,5000]},calibration={part="test",range=[5000,8000]},'
    'holdout={part="test",rest=true}}',
    'evaluation.metric="neg_divergence"',
)
"""Training images need not be where the GPU is, and a divergence shows what top-1 hides."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Candidates of a study, with what its file says changed."""

    study: str
    method: str
    candidates: Sequence[Mapping[str, float]]
    changes: Sequence[str]


CASES = (
    Case("cifar10-resnet20", "uniform", [{"k": k} for k in (16, 32, 64, 128, 256)], CIFAR),
    Case(
        "imagenet-efficientnet-lite0",
        "uniform",
        [{"k": 512}, {"k": 1024}],
        ('method={name="uniform",k=[2,4096]}', 'codec={kept="float16"}'),
    ),
    Case(
        "cifar10-resnet20-distilled",
        "feedback",
        [{"k": 44, "rate": 0.05}],
        (*CIFAR, "method.images=3000", "distill.solutions=0", 'codec.kept="float16"'),
    ),
)

NETWORKS = {
    "cifar10-resnet20": ((3, 32, 32), (16, 64)),
    "imagenet-efficientnet-lite0": ((3, 224, 224), (64,)),
    "torchvision:resnet50": ((3, 224, 224), (16, 64)),
    "torchvision:vit_b_16": ((3, 224, 224), (64,)),
}
"""The shape of an input, and numbers of bins."""

LOADED = ("torchvision:resnet50", 64)
SAID = {True: "yes", False: "no"}


def make(name: str) -> nn.Module:
    """Return the network of a study, or torchvision's with random weights."""
    if name.startswith("torchvision:"):
        return load_network(name, weights="random")
    return read_network(load_spec(STUDIES / f"{name}.toml").task().network).module.eval()


def evaluated(case: Case, device: str) -> list[tuple[float, float | None, str | None]]:
    """Return the seconds, the metric and the weights' fingerprint of each candidate."""
    where = [f'evaluation.device="{device}"', f"evaluation.threads={THREADS}"]
    evaluator = Evaluator(load_spec(STUDIES / f"{case.study}.toml", [*where, *case.changes]).task())
    found = []
    for candidate in case.candidates:
        start = time.perf_counter()
        outcome = evaluator.evaluate(Job(Recipe.of(candidate)), Archive(("size_bytes",)))
        if outcome.error is not None:
            raise SystemExit(f"{case.study}, {candidate} on {device}: {outcome.error}")
        found.append((time.perf_counter() - start, outcome.metric, outcome.fingerprint))
    evaluator.close()
    return found


def candidates(case: Case, device: str) -> Row:
    """Return what candidates take and give on the CPU and on the device, once all is prepared."""
    cpu_s, cpu_metric, cpu_weights = zip(*evaluated(case, "cpu"), strict=True)
    device_s, device_metric, device_weights = zip(*evaluated(case, device), strict=True)
    return {
        "study": case.study,
        "method": case.method,
        "candidates": case.candidates,
        "cpu_s": cpu_s,
        "device_s": device_s,
        "cpu_metric": cpu_metric,
        "device_metric": device_metric,
        "same_weights": [a == b for a, b in zip(cpu_weights, device_weights, strict=True)],
    }


def medians(calls: Mapping[str, Callable[[], object]], n: int, device: str) -> dict[str, float]:
    """Return the median seconds of each call and of what it began on the device, all in turns."""
    wait = torch.get_device_module(device).synchronize
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(UNCOUNTED + n):
        for name, call in calls.items():
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values[UNCOUNTED:]) for name, values in taken.items()}


def passes(name: str, k: int, device: str, file: Path) -> Row:
    """Return what a network costs that runs from its compressed weights, held or not."""
    moeash.compress(make(name), file, candidate={"k": k}, force=True, progress=False)
    dense = moeash.load(file, into=make(name).to(device))
    small, held = make(name).to(device), make(name).to(device)
    moeash.nn.compress_(small, file)
    moeash.nn.compress_(held, file, resident_bytes=1 << 30)
    torch.manual_seed(1)
    inputs = torch.randn(max(BATCHES), *NETWORKS[name][0]).to(device)
    row: Row = {
        "network": name,
        "k": k,
        "file_bytes": file.stat().st_size,
        "dense_bytes": moeash.nn.memory(dense).at_rest_bytes,
        "small_bytes": moeash.nn.memory(small).at_rest_bytes,
    }
    with torch.inference_mode():
        expected = dense(inputs)
        row["equal"] = all(torch.equal(network(inputs), expected) for network in (small, held))
        for n in BATCHES:
            networks = {"dense": dense, "small": small, "held": held}
            calls = {kind: partial(network, inputs[:n]) for kind, network in networks.items()}
            row[f"pass_{n}_s"] = medians(calls, PASSES, device)
    return row


def loads(coder: str, device: str, folder: Path) -> Row:
    """Return what loading a file to the device takes, beside safetensors of the same weights."""
    (source, k), file, plain = LOADED, folder / f"{coder}.moeash", folder / "plain.safetensors"
    spec = {"codec": {"coder": coder}}
    moeash.compress(make(source), file, candidate={"k": k}, spec=spec, progress=False)
    save_file({n: t.contiguous() for n, t in moeash.load(file).items()}, plain)
    expected, found = load_file(plain), moeash.load(file, device=device)
    calls = {
        "moeash": lambda: moeash.load(file, device=device),
        "safetensors": lambda: load_file(plain, device=device),
    }
    return {
        "network": source,
        "k": k,
        "coder": coder,
        "file_bytes": file.stat().st_size,
        "plain_bytes": plain.stat().st_size,
        "equal": all(torch.equal(found[name].cpu(), t) for name, t in expected.items()),
        "load_s": medians(calls, LOADS, device),
    }


def measured(device: str) -> Row:
    """Return all that is measured of a device."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "network.moeash"
        return {
            "device": name_of(device),
            "torch": torch.__version__,
            "cores": available_cores(),
            "candidates": [candidates(case, device) for case in CASES],
            "passes": [passes(n, k, device, file) for n, (_, ks) in NETWORKS.items() for k in ks],
            "loads": [loads(coder, device, folder) for coder in CODERS],
        }


def of_candidates(row: Row) -> list[object]:
    """Return the cells of a study: medians of its candidates, and what moved most."""
    cpu, device = statistics.median(row["cpu_s"]), statistics.median(row["device_s"])
    pairs = zip(row["cpu_metric"], row["device_metric"], strict=True)
    moved = max(abs(on_cpu - on_device) for on_cpu, on_device in pairs)
    bins = ", ".join(str(candidate["k"]) for candidate in row["candidates"])
    times = [f"{cpu:.3f}", f"{device:.3f}", f"{cpu / device:.1f}"]
    same = SAID[all(row["same_weights"])]
    return [row["study"], row["method"], bins, *times, f"{moved:.2g}", same]


def of_passes(row: Row) -> list[object]:
    """Return the cells of a network: bytes at rest, and passes as multiples of the dense one's."""
    taken = [row[f"pass_{n}_s"] for n in BATCHES]
    ratios = [f"{t[kind] / t['dense']:.2f}" for kind in ("small", "held") for t in taken]
    sizes = [f"{row[kind]:,}" for kind in ("dense_bytes", "small_bytes")]
    return [row["network"], row["k"], *sizes, *ratios, SAID[row["equal"]]]


def of_loads(row: Row) -> list[object]:
    """Return the cells of a file: bytes and milliseconds."""
    ours, plain = row["load_s"]["moeash"], row["load_s"]["safetensors"]
    sizes = [f"{row[kind]:,}" for kind in ("file_bytes", "plain_bytes")]
    times = [f"{1e3 * ours:.1f}", f"{1e3 * plain:.1f}", f"{ours / plain:.1f}"]
    return [f"{row['network']}, k = {row['k']}", row["coder"], *sizes, *times, SAID[row["equal"]]]


def table(result: Row) -> str:
    """Return what was measured as three tables of Markdown."""
    device = result["device"].partition(" ")[0]
    batches = "|".join(f"pass of {n}{held}" for held in ("", ", held") for n in BATCHES)
    tables = (
        (
            "candidates",
            of_candidates,
            f"study|method|k|CPU, s|{device}, s|ratio|moved|same weights",
        ),
        ("passes", of_passes, f"network|k|bytes, dense|on indices|{batches}|same outputs"),
        (
            "loads",
            of_loads,
            "file|coder|bytes|as floats|load, ms|safetensors, ms|ratio|same weights",
        ),
    )
    lines = []
    for part, cells, heads in tables:
        columns = heads.split("|")
        lines += [f"| {' | '.join(columns)} |", "|---" * 2 + "|--:" * (len(columns) - 2) + "|"]
        lines += [f"| {' | '.join(map(str, cells(row)))} |" for row in result[part]] + [""]
    return "\n".join(lines[:-1])


def main() -> None:
    """Measure a device."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("device", help="as torch names it: cuda")
    parser.add_argument("--to", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    # As while candidates are evaluated: GPUs round factors to TF32 unless told not to.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    result = measured(arguments.device)
    arguments.to.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.to == RESULT:
        put_table("devices", table(result))


if __name__ == "__main__":
    main()
