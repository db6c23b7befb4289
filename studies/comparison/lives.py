"""One compressed network through every file it can leave as, each loaded by what reads it.

    PYTHONPATH=. python studies/comparison/lives.py FILE.moeash studies/STUDY.toml

Writes ``lives.json`` and the table of README.md: bytes of every file, top-1 on the study's holdout
images, and how far the outputs are from those of the network that ``moeash.load`` gives, relative
to the largest. Files of weights alone give that network to the bit; onnxruntime computes in another
order. ``--images`` takes fewer images.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tables import put_table
from torch import Tensor, nn

import moeash
import moeash.nn
from moeash.data.splits import Split, load_splits
from moeash.networks.loading.sources import read_network
from moeash.study.spec.reading import load_spec
from studies.compiled import in_c

RESULT = Path(__file__).with_name("lives.json")
BATCH = 50
SUFFIXES = {"safetensors": ".safetensors", "torch": ".pt", "onnx": ".onnx", "c": ".h"}

Run = Callable[[Tensor], Tensor]


def write_files(file: Path, network: nn.Module, split: Split, folder: Path) -> dict[str, Path]:
    """Write a file in all other formats; return them all by name."""
    inputs = next(batch for batch, _ in split.batches(BATCH))
    files = {"moeash": file}
    for name, suffix in SUFFIXES.items():
        files[name] = folder / f"network{suffix}"
        needed = {"network": network, "inputs": inputs} if name == "onnx" else {}
        moeash.decompress(file, files[name], format=name, **needed)
    return files


def consumers(files: Mapping[str, Path], fresh: Callable[[], nn.Module]) -> dict[str, Any]:
    """Return what loads the network from each file, with the format of the file."""

    def filled() -> Run:
        return moeash.load(files["moeash"], into=fresh())

    def small_in_memory() -> Run:
        network = fresh()
        moeash.nn.compress_(network, files["moeash"])
        return network

    def of_state(state: Mapping[str, Tensor]) -> Run:
        network = fresh()
        network.load_state_dict(state)
        return network

    def in_onnxruntime() -> Run:
        import onnxruntime

        session = onnxruntime.InferenceSession(files["onnx"], providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return lambda x: torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])

    return {
        "moeash.load": ("moeash", filled),
        "moeash.nn.compress_": ("moeash", small_in_memory),
        "safetensors": ("safetensors", lambda: of_state(load_file(files["safetensors"]))),
        "torch.load": ("torch", lambda: of_state(torch.load(files["torch"], weights_only=True))),
        "onnxruntime": ("onnx", in_onnxruntime),
        "gcc": ("c", lambda: of_state(in_c(files["c"], fresh().state_dict()))),
    }


@torch.inference_mode()
def outputs(run: Run, split: Split, n_images: int) -> tuple[Tensor, Tensor]:
    """Return the outputs for some images, and their labels."""
    found, labels = [], []
    left = min(n_images, len(split))
    for x, y in split.batches(BATCH):
        found.append(run(x[:left]))
        labels.append(y[:left])
        left -= len(found[-1])
        if left == 0:
            break
    return torch.cat(found), torch.cat(labels)


def measured(file: Path, spec: Path, n_images: int) -> list[dict[str, Any]]:
    """Return a row for the float network, and one for each consumer of a file."""
    task = load_spec(spec).task()
    splits = load_splits(task.data)
    split = splits.get("holdout") or splits["search"]

    def fresh() -> nn.Module:
        return read_network(task.network).module.eval()

    network = fresh()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(file, network, split, Path(folder))
        runs = {"float network": (None, lambda: network)} | consumers(files, fresh)
        expected, _ = outputs(moeash.load(file, into=fresh()), split, n_images)
        for name, (format, load) in runs.items():
            found, labels = outputs(load(), split, n_images)
            row = {
                "loaded by": name,
                "format": format,
                "size_bytes": None if format is None else files[format].stat().st_size,
                "images": len(labels),
                "top1": float((found.argmax(1) == labels).double().mean()),
                "same_class": float((found.argmax(1) == expected.argmax(1)).double().mean()),
                "moved": float((found - expected).abs().max() / expected.abs().max()),
            }
            rows.append(row)
            print(row, flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = ["| loaded by | bytes of its file | top-1 | outputs moved by |", "|---|--:|--:|--:|"]
    for row in rows:
        size = "" if row["size_bytes"] is None else f"{row['size_bytes']:,}"
        moved = f"{row['moved']:.1g}" if row["moved"] else "0"
        lines.append(f"| {row['loaded by']} | {size} | {row['top1']:.4f} | {moved} |")
    return "\n".join(lines)


def main() -> None:
    """Measure a file of a study's network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--images", type=int, default=1 << 30, help="of the holdout split, at most")
    parser.add_argument("--to", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = measured(arguments.file, arguments.spec, arguments.images)
    arguments.to.write_text(json.dumps(rows, indent=2) + "\n")
    if arguments.to == RESULT:
        put_table("lives", table(rows))


if __name__ == "__main__":
    main()
