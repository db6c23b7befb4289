"""What an ONNX file with a codebook costs at run time, beside the same network with float weights.

    python studies/comparison/runtimes.py FILE.moeash studies/cifar10-resnet20-feedback.toml

Writes ``runtimes.json`` and the table of README.md. Both files hold one graph; in the second every
shared tensor is a float initializer. Each row is a process of its own on one thread: bytes on disk,
CPU seconds until a session is ready (best of five), how much more memory the process then has, and
CPU milliseconds of a forward pass (best of many). onnxruntime looks weights
up once, when it loads the file, unless constant folding is switched off; then in every pass.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tables import put_table

RESULT = Path(__file__).with_name("runtimes.json")
BATCHES = (1, 100)
LOADS = 5

MODES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no constant folding": {"disabled_optimizers": ["ConstantFolding"]},
}
"""Arguments of a session."""


def write_files(file: Path, spec: Path, folder: Path) -> dict[str, Path]:
    """Write a network with a codebook and with float weights; return the files by name."""
    from moeash.codec.container import read
    from moeash.core.codebook import KeptTensor, SharedTensor
    from moeash.data.unlabelled import Unlabelled
    from moeash.exports.formats.base import Source
    from moeash.exports.formats.table import TABLE
    from moeash.exports.runnable import images_of, runnable
    from moeash.networks.loading.sources import read_network
    from moeash.study.spec.reading import load_spec

    weights = read(file).shared

    def as_float(tensor: Any) -> Any:
        if not isinstance(tensor, SharedTensor):
            return tensor
        return KeptTensor(tensor.name, tensor.shape, tensor.dtype, weights.values(tensor))

    floats = replace(weights, tensors=tuple(map(as_float, weights.tensors)))
    task = load_spec(spec).task()
    module = read_network(task.network).module
    inputs = Unlabelled(images_of(task), at_most=max(BATCHES), network=module)
    paths = {}
    for name, own in {"codebook": weights, "float": floats}.items():
        paths[name] = folder / f"{name}.onnx"
        with TABLE["onnx"].placing(Source(own, network=runnable(module, own, inputs)), paths[name]):
            pass
    return paths


def measure(path: Path, mode: str, seconds: float) -> dict[str, Any]:
    """Return what a file costs in this process, which has loaded nothing yet."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1

    def session() -> Any:
        return onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], **MODES[mode]
        )

    before = resident_bytes()
    first = session()
    (given,) = first.get_inputs()
    first.run(None, {given.name: np.zeros((1, *given.shape[1:]), np.float32)})
    row: dict[str, Any] = {"resident_bytes": resident_bytes() - before}
    row["load_s"] = min(timed(session) for _ in range(LOADS))
    for n in BATCHES:
        x = np.random.default_rng(0).normal(size=(n, *given.shape[1:])).astype(np.float32)
        end = time.monotonic() + seconds
        passes = []
        while time.monotonic() < end or len(passes) < 5:
            passes.append(timed(lambda x=x: first.run(None, {given.name: x})))
        row[f"pass_{n}_ms"] = 1e3 * min(passes)
    return row


def timed(function: Any) -> float:
    """Return the seconds of CPU a call takes: on one thread, on an idle machine, its duration."""
    start = time.process_time()
    function()
    return time.process_time() - start


def resident_bytes() -> int:
    """Return the memory of this process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    heads = [f"pass of {n}, ms" for n in BATCHES]
    lines = [f"| weights | session | bytes on disk | load, ms | memory, MB | {' | '.join(heads)} |"]
    lines.append("|---" * 2 + "|--:" * (3 + len(heads)) + "|")
    for row in rows:
        load, memory = f"{1e3 * row['load_s']:.1f}", f"{row['resident_bytes'] / 1e6:.1f}"
        cells = [row["weights"], row["session"], f"{row['size_bytes']:,}", load, memory]
        cells += [f"{row[f'pass_{n}_ms']:.2f}" for n in BATCHES]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure a network, or in a process of its own one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("spec")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", default="4", help="spent on passes of each size")
    parser.add_argument("--to", type=Path, default=RESULT)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.file, arguments.spec, float(arguments.seconds))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(arguments.file, Path(arguments.spec), Path(folder))
        for mode in MODES:
            for weights, path in files.items():
                command = [sys.executable, __file__, str(path), mode, "--one"]
                command += ["--seconds", arguments.seconds]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row = {"weights": weights, "session": mode, "size_bytes": path.stat().st_size}
                rows.append(row | json.loads(done.stdout))
                print(rows[-1])
    arguments.to.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.to == RESULT:
        put_table("runtimes", table(rows))


if __name__ == "__main__":
    main()
