"""Measure any checkpoint on the splits of a study: the same images for moeash and for peers.

    python studies/comparison/measure.py studies/cifar10-resnet20.toml DECODED.safetensors

Prints JSON: top-1 of the float network and of the checkpoint on the search and the holdout split.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from moeash.evaluation.holdout import outputs_on
from moeash.evaluation.metrics import predicted
from moeash.networks.checkpoints import fit, load_checkpoint
from moeash.study.spec import load_spec


def main() -> None:
    """Measure one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("checkpoint", type=Path)
    arguments = parser.parse_args()
    task = load_spec(arguments.spec).task()
    assert task.data is not None
    splits = task.data.load()
    exact = task.network.load().module
    peer = dataclasses.replace(task.network).load().module
    fit(peer, load_checkpoint(arguments.checkpoint), str(arguments.checkpoint))
    result = {}
    for name in ("search", "holdout"):
        split = splits[name]
        right = [
            int(
                (
                    predicted(outputs_on(m, split, batch_size=250, device="cpu")) == split.labels
                ).sum()
            )
            for m in (exact, peer)
        ]
        result[name] = {
            "n_images": len(split),
            "float_top1": right[0] / len(split),
            "top1": right[1] / len(split),
            "drop": (right[0] - right[1]) / len(split),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
