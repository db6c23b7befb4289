"""Measure decoded checkpoints on the splits of a study: the same images for moeash and for peers.

    python studies/comparison/measure.py studies/cifar10-resnet20.toml FOLDER/*.safetensors

A checkpoint's facts are read from the ``.json`` beside it, and its row goes into ``rows.jsonl``:
top-1 of the checkpoint and how far that is below the float network, on the search and the holdout
split; and KL(float || checkpoint) of the outputs on the holdout split, in nats an image. The
latter needs no labels and is known far better than a drop in top-1.
"""

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import Row, put_rows

from moeash.data.splits import Split, load_splits
from moeash.evaluation.holdout import outputs_on
from moeash.evaluation.metrics import predicted
from moeash.evaluation.task import Task
from moeash.networks.loading.checkpoints import fit, load_checkpoint
from moeash.networks.loading.sources import read_network
from moeash.study.spec.reading import load_spec

SPLITS = ("search", "holdout")


class Bench:
    """The float network of a study and what it answers on the study's images."""

    def __init__(self, task: Task) -> None:
        """Load everything and run the float network once."""
        assert task.data is not None
        self.network = task.network.source
        self._task = task
        splits = load_splits(task.data)
        self._splits = {name: splits[name] for name in SPLITS}
        exact = read_network(task.network).module.eval()
        self._exact = {name: self._outputs(exact, name) for name in SPLITS}

    def _outputs(self, module: torch.nn.Module, name: str) -> torch.Tensor:
        return outputs_on(module, self._splits[name], batch_size=250, device="cpu")

    def measure(self, state: Mapping[str, Any], origin: str) -> Row:
        """Return the row of a state of the network; what it is and what it takes is to be added."""
        module = read_network(self._task.network).module.eval()
        fit(module, state, origin)
        row: Row = {"network": self.network}
        for name, split in self._splits.items():
            outputs = self._outputs(module, name)
            right = [
                int((predicted(o) == split.labels).sum()) for o in (self._exact[name], outputs)
            ]
            row[f"{name}_images"] = len(split)
            row[f"{name}_top1"] = right[1] / len(split)
            row[f"{name}_drop"] = (right[0] - right[1]) / len(split)
        row["holdout_kl"] = divergence(self._exact["holdout"], outputs)
        row["device"] = f"cpu, {platform.machine()}"
        return row


def divergence(exact: torch.Tensor, outputs: torch.Tensor) -> float:
    """Return the mean over images of KL(float || other) of two ``(images, classes)`` logits."""
    p, q = exact.double().log_softmax(1), outputs.double().log_softmax(1)
    return float((p.exp() * (p - q)).sum(1).mean())


def images_of(split: Split, count: int, batch: int) -> list[torch.Tensor]:
    """Return images of a split in batches, shuffled.

    Splits may be sorted by class: neither the images nor a batch may be of a few classes.
    """
    order = np.random.default_rng(0).permutation(len(split))[:count]
    return [x.clone() for x, _ in split.batches(batch, order=order)]


def main() -> None:
    """Measure every checkpoint named and put its row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args()
    bench = Bench(load_spec(arguments.spec).task())
    for path in arguments.checkpoints:
        facts = json.loads(path.with_suffix(".json").read_text())
        row = facts | bench.measure(load_checkpoint(path), str(path))
        put_rows([row])
        print(json.dumps(row))


if __name__ == "__main__":
    main()
