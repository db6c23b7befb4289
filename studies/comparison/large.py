"""What compressing networks of ImageNet's size takes: seconds of one core, and memory.

    pip install --no-deps efficientnet-lite-pytorch
    python studies/comparison/large.py

Each network is compressed once by ``feedback`` with the method's defaults, in a process of its
own, and the file is read back. Preparing is all that ``moeash.compress`` does until it assigns the
first layer. Its passes are counted, and so many bare ones, of the same pictures in one process,
are what it cannot do without: forward passes, and backward passes to all weights. Curvature alone
takes one forward pass and a backward pass a sketch. Memory is what the process had at most beyond
what it had with the network, its pictures and torch; factors are a part of it that stays. ViT-B/16
and ResNet-50 have random weights, so their files mean nothing: neither bytes nor times are shown.

Writes ``large.json`` and a table of README.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from runtimes import resident_bytes
from tables import put_table
from torch import Tensor, nn

import moeash
from moeash.data.splits import load_splits
from moeash.methods.feedback.assignment.rows import MOST_ROWS
from moeash.methods.feedback.curvature.measuring import measure_curvature
from moeash.methods.feedback.options import FeedbackOptions
from moeash.networks.loading.sources import read_network
from moeash.networks.options import NetworkOptions
from moeash.study.events import Doing, Event
from moeash.study.spec.reading import load_spec

RESULT = Path(__file__).with_name("large.json")
PICTURES = Path(__file__).parents[1] / "imagenet-efficientnet-lite0.toml"
BATCH = 10
CANDIDATE = {"k": 1000, "rate": 0.03}
ASSIGNING, WRITING = "assigning layers", "writing and verifying the file"


@dataclass(frozen=True)
class Case:
    """A network, and how many pictures it is calibrated with.

    Attributes:
        title: in the table.
        source: of the network; None: that of the study whose pictures all take.
        pictures: of the study's calibration split.
    """

    title: str
    source: str | None
    pictures: int


CASES = {
    "efficientnet-lite0": Case("EfficientNet-Lite0", None, 200),
    "resnet50": Case("ResNet-50", "torchvision:resnet50", 50),
    "vit_b_16": Case("ViT-B/16", "torchvision:vit_b_16", 20),
}


def network_of(case: Case) -> nn.Module:
    """Return a case's network; that of the study has its trained weights."""
    torch.manual_seed(0)
    task = load_spec(PICTURES).task()
    options = task.network if case.source is None else NetworkOptions(case.source, weights="random")
    network = read_network(options).module.eval()
    for module in network.modules():
        if isinstance(module, nn.Linear) and not bool(module.weight.any()):
            nn.init.trunc_normal_(module.weight, std=0.02)  # or no weight would matter
    return network


def pictures_of(case: Case) -> Tensor:
    """Return a case's calibration pictures."""
    data = load_spec(PICTURES).task().data
    assert data is not None
    split = load_splits(data)["calibration"]
    return torch.cat([images for images, _ in split.batches(BATCH)])[: case.pictures]


@dataclass(frozen=True)
class Bare:
    """Seconds of the processor that a picture takes.

    Attributes:
        forward: a forward pass without gradients.
        recorded: one that autograd records, and a backward pass to all weights a sketch.
    """

    forward: float
    recorded: float


def bare_passes(network: nn.Module, pictures: Tensor) -> Bare:
    """Measure bare passes of pictures, BATCH at a time."""
    weights = [p for p in network.parameters() if p.ndim > 1]
    forward = recorded = 0.0
    for batch in pictures.split(BATCH):
        started = time.process_time()
        with torch.inference_mode():
            network(batch)
        between = time.process_time()
        scores = network(batch)
        for _ in range(FeedbackOptions().sketches):
            towards = (scores * torch.randn_like(scores)).sum()
            torch.autograd.grad(towards, weights, retain_graph=True)
        forward += between - started
        recorded += time.process_time() - between
    return Bare(forward / len(pictures), recorded / len(pictures))


@contextmanager
def counted_passes(network: nn.Module) -> Iterator[dict[str, int]]:
    """Yield how many pictures a network has passed forward, without gradients and recorded."""
    found = {"forward": 0, "recorded": 0}

    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found["recorded" if torch.is_grad_enabled() else "forward"] += len(args[0])

    handle = network.register_forward_pre_hook(count)
    try:
        yield found
    finally:
        handle.remove()


def factor_bytes(network: nn.Module) -> int:
    """Return the bytes of the factors: of each layer's columns, and of its rows, in float32."""
    n_elements = 0
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is None or weight.ndim < 2 or not name.endswith("weight"):
                continue
            # Attention's queries, keys and values are one matrix, and coupled one by one.
            groups = 3 if name == "in_proj_weight" else getattr(module, "groups", 1)
            rows, columns = len(weight) // groups, weight[0].numel()
            n_elements += groups * (columns**2 + (rows**2 if rows <= MOST_ROWS else 0))
    return 4 * n_elements


class Phases:
    """Seconds of the processor by what progress named last."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._what, self._since = "beginning", time.process_time()

    def __call__(self, event: Event) -> None:
        """Hear of progress."""
        now = time.process_time()
        self.seconds[self._what] += now - self._since
        self._since = now
        if isinstance(event, Doing):
            self._what = event.what


@contextmanager
def peak_memory() -> Iterator[dict[str, float]]:
    """Yield what holds, ten times a second, the most GB in memory beyond those at first."""
    found = {"gb": 0.0}
    began, ended = resident_bytes(), threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            found["gb"] = max(found["gb"], (resident_bytes() - began) / 1e9)

    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    try:
        yield found
    finally:
        ended.set()
        looking.join()


def measured(network: nn.Module, pictures: Tensor) -> dict[str, Any]:
    """Return what compressing a network takes."""
    bare_passes(network, pictures[:BATCH])
    bare = bare_passes(network, pictures)
    started = time.process_time()
    measure_curvature(network, pictures.split(BATCH))
    curvature = time.process_time() - started
    phases = Phases()
    with (
        tempfile.TemporaryDirectory() as folder,
        peak_memory() as memory,
        counted_passes(network) as passes,
    ):
        path = Path(folder) / "network.moeash"
        moeash.compress(
            network,
            path,
            candidate=CANDIDATE,
            method="feedback",
            calibration=pictures,
            progress=phases,
            spec={"codec": {"coder": "adaptive"}},
        )
        phases(Event())
        started = time.process_time()
        moeash.load(path, into=network)
        loading = time.process_time() - started
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "pictures": len(pictures),
        "of_curvature_s": bare.recorded * len(pictures),
        "curvature_s": curvature,
        "passes": passes,
        "of_passes_s": bare.forward * passes["forward"] + bare.recorded * passes["recorded"],
        "seconds": dict(phases.seconds),
        "load_s": loading,
        "memory_gb": memory["gb"],
        "factors_gb": factor_bytes(network) / 1e9,
        "torch": torch.__version__,
    }


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| network | parameters | pictures | curvature, s | of its bare passes "
        "| preparing in all, s | of its bare passes | assigning, s | file, s | load, s "
        "| memory, GB | of it factors |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        seconds, curvature = row["seconds"], row["curvature_s"]
        assigning, writing = seconds[ASSIGNING], seconds[WRITING]
        preparing = sum(seconds.values()) - assigning - writing
        is_trained = CASES[name].source is None
        file = f"{writing:.1f} | {row['load_s']:.1f}" if is_trained else "| "
        lines.append(
            f"| {CASES[name].title} | {row['parameters']:,} | {row['pictures']} | {curvature:.0f} "
            f"| {curvature / row['of_curvature_s']:.2f} x | {preparing:.0f} "
            f"| {preparing / row['of_passes_s']:.2f} x | {assigning:.1f} | {file} "
            f"| {row['memory_gb']:.1f} | {row['factors_gb']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all networks, or one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=CASES, help="networks to measure anew")
    parser.add_argument("--one", choices=CASES, help="print what one network takes, as JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # Linux
        torch.set_num_threads(1)
        case = CASES[arguments.one]
        print(json.dumps(measured(network_of(case), pictures_of(case))))
        return
    rows = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in arguments.only or CASES:
        command = [sys.executable, __file__, "--one", name]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        rows[name] = json.loads(out)
        RESULT.write_text(json.dumps(rows, indent=1) + "\n")
        print(out, flush=True)
    put_table("large", table({name: rows[name] for name in CASES if name in rows}))


if __name__ == "__main__":
    main()
