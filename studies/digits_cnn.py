"""Train ``digits-cnn``, the first study's network: ``python -m studies.digits_cnn --to FILE``.

The checkpoint in ``moeash/networks/trained`` was written by this script. It sees the images of
the ``train`` split of :data:`SPLITS` only, so the study's search and holdout splits are new to it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from moeash.data.sources import load_source
from moeash.data.splits import Split, draw_splits
from moeash.networks.loading.builtin import DigitsCNN

SPLITS: dict[str, dict[str, Any]] = {
    "search": {"part": "all", "count": 450, "seed": 0},
    "holdout": {"part": "all", "count": 450, "seed": 0},
    "calibration": {"part": "all", "count": 100, "seed": 0},
    "train": {"part": "all", "rest": True},
}
"""The splits of ``studies/digits.toml``; 797 images are left for training."""

SEED = 0
N_EPOCHS = 60
BATCH_SIZE = 64
PEAK_RATE = 3e-3
WEIGHT_DECAY = 5e-3
LABEL_SMOOTHING = 0.1


def train(split: Split, *, seed: int = SEED, n_epochs: int = N_EPOCHS) -> nn.Module:
    """Return a network trained on a split, in eval mode.

    AdamW under a one-cycle rate, images shifted by at most one pixel. One thread and one seed
    give one result on one machine; other processors may round differently.
    """
    images, labels = next(split.batches(len(split)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DigitsCNN()
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
        stops = list(range(BATCH_SIZE, len(split), BATCH_SIZE))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, PEAK_RATE, total_steps=n_epochs * (len(stops) + 1)
        )
        for _ in range(n_epochs):
            for chosen in torch.randperm(len(split)).tensor_split(stops):
                logits = network(_shifted(images[chosen]))
                loss = functional.cross_entropy(
                    logits, labels[chosen], label_smoothing=LABEL_SMOOTHING
                )
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
    return network.eval()


def _shifted(images: Tensor) -> Tensor:
    """Move each image by -1, 0 or 1 pixels in both directions, its edge repeated."""
    n, _, height, width = images.shape
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = torch.randint(0, 3, (n, 1)) + torch.arange(height)
    columns = torch.randint(0, 3, (n, 1)) + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


def accuracy(network: nn.Module, split: Split) -> float:
    """Return the fraction of a split that the network classifies correctly."""
    right = 0
    with torch.inference_mode():
        for images, labels in split.batches(256):
            right += int((network(images).argmax(1) == labels).sum())
    return right / len(split)


def main(arguments: list[str] | None = None) -> int:
    """Train, write the checkpoint, print the accuracies."""
    parser = argparse.ArgumentParser(description="Train digits-cnn on scikit-learn's digits.")
    parser.add_argument("--to", type=Path, required=True, help="the .safetensors file to write")
    target: Path = parser.parse_args(arguments).to
    torch.set_num_threads(1)
    splits = draw_splits(load_source("digits"), SPLITS)
    network = train(splits["train"])
    save_file(network.state_dict(), target)
    for name, split in splits.items():
        print(f"{name}: {accuracy(network, split):.4f} of {len(split)} images")
    print(f"{target}: {target.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
