"""Checkpoints of a training, in a file whose name follows from what is trained.

Files are named after a digest of everything the training depends on, so nothing refers to them:
they may be deleted at any time, and one that cannot be read costs the time to train again.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from moeash.errors import ExportError
from moeash.files import replacing

SUFFIX = ".training"

FORGOTTEN_S = 14 * 24 * 3600.0
"""A training nobody went on with for so long was given up; its file is deleted."""

UNREADABLE = (SafetensorError, ValueError, KeyError, RuntimeError, OSError)


@dataclass(frozen=True, eq=False)
class Saved:
    """Where a training stands.

    Attributes:
        stage: the one to go on with; one more than the last when nothing is left to do.
        done: steps of it that were taken.
        tensors: all that changes, by name.
    """

    stage: int
    done: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The file of one training.

    Attributes:
        folder: where it lies; it is made when something is saved.
        digest: of everything the training depends on.
    """

    folder: Path
    digest: str

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self.folder / f"{self.digest}{SUFFIX}"

    def save(self, saved: Saved) -> None:
        """Save where the training stands; what was saved before stays until this is whole.

        A folder that cannot be written costs the safety from kills, not the training.
        """
        # Copies: safetensors refuses tensors that share memory.
        tensors = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in saved.tensors.items()
        }
        said = {"stage": str(saved.stage), "done": str(saved.done), "digest": self.digest}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary:
                save_file(tensors, temporary, said)
            _delete_forgotten(self.folder)
        except (ExportError, OSError):
            return

    def read(self) -> Saved | None:
        """Return where the training stands; None when it is to begin."""
        try:
            with safe_open(self.path, framework="pt") as file:
                said = file.metadata() or {}
                if said.get("digest") != self.digest:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Saved(int(said["stage"]), int(said["done"]), tensors)
        except UNREADABLE:
            return None

    def delete(self) -> None:
        """Forget the training."""
        self.path.unlink(missing_ok=True)


def _delete_forgotten(folder: Path) -> None:
    before = time.time() - FORGOTTEN_S
    for path in folder.glob(f"*{SUFFIX}"):
        if path.stat().st_mtime < before:
            path.unlink(missing_ok=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return what an optimiser remembers, by name."""
    state = optimiser.state_dict()["state"]
    return {
        f"optimiser/{number}/{name}": torch.as_tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser back what :func:`optimiser_tensors` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        head, _, rest = key.partition("/")
        if head == "optimiser":
            number, _, name = rest.partition("/")
            # Adam counts steps on the host, wherever its moments are.
            state.setdefault(int(number), {})[name] = tensor.cpu() if name == "step" else tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
