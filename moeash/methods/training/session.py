"""One training: images in a seeded order, step after step, safe from being killed.

What is trained is a :class:`Trainee`: some stages, each of so many steps. The session brings it
batches, saves it after every stage and at least once a minute, and goes on from there when the same
training is asked for again. Which images a step sees, and how they are varied, depends on the seed
and the step's number alone, so a training that was killed and went on ends with the same bits as
one that was not (on one device, with one number of threads).

A step is never saved halfway: a stop request loses what was done since the last save.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeash.core.progress import Progress, silent
from moeash.data.inputs import Batch
from moeash.errors import TrainingError
from moeash.methods.base import Images
from moeash.methods.training.augmenting import varied
from moeash.methods.training.checkpoints import Checkpoint, Saved
from moeash.methods.training.options import TrainingOptions

SAVE_EVERY_S = 60.0
"""Seconds of training, and one step, that are lost at most when its process is killed."""

TELL_EVERY = 10
"""Steps between looks at the loss, which on a GPU waits for it."""

DIVERGED = 1e4
"""A mean loss that no training of scores comes back from, in nats."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What one step sees.

    Attributes:
        inputs: a batch, varied, on the device.
        labels: ``(n,)`` int64, on the device.
        epoch: passes over the images before this one.
        step: steps of the training before this one.
        steps: of the training in all.
        noise: draws of this step; seeded by its number.
    """

    inputs: Batch
    labels: Tensor
    epoch: int
    step: int
    steps: int
    noise: torch.Generator


class Trainee(Protocol):
    """What is trained. It says what a step does and knows nothing of images, files or clocks."""

    @property
    def stages(self) -> Sequence[int]:
        """The steps of each stage; a stage may have none."""
        ...

    def begin(self, stage: int) -> None:
        """Begin a stage: make a new optimiser, say."""
        ...

    def step(self, seen: Seen) -> Tensor:
        """Take one step; return its loss, detached."""
        ...

    def end(self, stage: int) -> None:
        """End a stage: fix weights, say."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return all that changes, by name, optimiser included."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Take what :meth:`tensors` returned, in a stage that has begun."""
        ...

    def words(self) -> str:
        """Return where it stands, for people: ``40% fixed, 31 entries, 1.92 bits``."""
        ...


@dataclass(frozen=True)
class Session:
    """Where trainings happen.

    Attributes:
        images: to train on.
        options: how.
        seed: of the order of the images and of everything random.
        device: of the network.
        checkpoint: where the training is saved; None: nowhere.
        progress: hears how far it is.
        clock: seconds.
    """

    images: Images
    options: TrainingOptions
    seed: int
    device: str = "cpu"
    checkpoint: Checkpoint | None = None
    progress: Progress = silent
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)

    @property
    def steps_an_epoch(self) -> int:
        """Steps of one pass over the images."""
        return steps_an_epoch(len(self.images), self.options.batch_size)

    def train(self, trainee: Trainee) -> None:
        """Train to the end, from where the same training was saved if it was.

        Raises:
            TrainingError: the loss is not finite, or beyond anything a training comes back from.
                What was saved last is good, and stays.
        """
        stages = list(trainee.stages)
        saved = None if self.checkpoint is None else self.checkpoint.read()
        stage, done = (0, 0) if saved is None else (saved.stage, saved.done)
        while stage < len(stages):
            trainee.begin(stage)
            if saved is not None:
                self._load(trainee, saved)
                if done == 0:
                    # Saved when the stage before ended: the optimiser in it is not this stage's.
                    trainee.begin(stage)
                saved = None
            self._stage(trainee, stages, stage, done)
            trainee.end(stage)
            stage, done = stage + 1, 0
            self._save(trainee, stage, 0)
        if saved is not None:
            # Nothing is left to do, and the result is what was saved.
            trainee.begin(len(stages) - 1)
            self._load(trainee, saved)

    def _stage(self, trainee: Trainee, stages: Sequence[int], stage: int, done: int) -> None:
        before, steps = sum(stages[:stage]), sum(stages)
        losses: list[Tensor] = []
        saved_at = self.clock()
        for seen in self.seen(before + done, before + stages[stage], steps):
            if seen.step % TELL_EVERY == 0 or not losses:
                self._tell(trainee, losses, seen, stage, len(stages))
            if self.clock() - saved_at >= SAVE_EVERY_S:
                _refuse_diverged(losses, stage, seen.step)
                self._save(trainee, stage, seen.step - before)
                saved_at = self.clock()
            losses.append(trainee.step(seen))
        _refuse_diverged(losses, stage, before + stages[stage])

    def _tell(
        self, trainee: Trainee, losses: list[Tensor], seen: Seen, stage: int, stages: int
    ) -> None:
        what = "training" if stages == 1 else f"training, stage {stage + 1} of {stages}"
        told = [trainee.words()]
        if losses:
            _refuse_diverged(losses, stage, seen.step)
            told.append(f"loss {torch.stack(losses[-TELL_EVERY:]).mean().item():.3g}")
            del losses[:-TELL_EVERY]
        self.progress(f"{what}: {', '.join(told)}", seen.step, seen.steps)

    def _load(self, trainee: Trainee, saved: Saved) -> None:
        trainee.load({name: tensor.to(self.device) for name, tensor in saved.tensors.items()})

    def _save(self, trainee: Trainee, stage: int, done: int) -> None:
        if self.checkpoint is not None:
            self.checkpoint.save(Saved(stage, done, trainee.tensors()))

    def seen(self, first: int, end: int, steps: int) -> Iterator[Seen]:
        """Yield what steps ``first`` to ``end - 1`` see."""
        size, an_epoch = self.options.batch_size, self.steps_an_epoch
        while first < end:
            epoch, position = divmod(first, an_epoch)
            n = min(an_epoch - position, end - first)
            order = order_of(len(self.images), self.seed, epoch)
            chosen = order[position * size : (position + n) * size]
            for inputs, labels in self.images.batches(size, chosen):
                noise = torch.Generator().manual_seed(_seed_of(self.seed, first))
                there = varied(inputs, self.options.augment, noise).to(self.device)
                yield Seen(there, labels.to(self.device), epoch, first, steps, noise)
                first += 1


def steps_an_epoch(n_images: int, batch_size: int) -> int:
    """Return the full batches of one pass over images; a rest is seen in other passes."""
    return max(1, n_images // batch_size)


def order_of(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order in which one pass visits ``n`` images; the same everywhere."""
    keys = np.random.PCG64([seed, epoch]).random_raw(n)
    return np.argsort(keys, kind="stable")


def _seed_of(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _refuse_diverged(losses: Sequence[Tensor], stage: int, step: int) -> None:
    """Refuse what no training comes back from.

    Raises:
        TrainingError: it is there.
    """
    if not losses:
        return
    mean = torch.stack(list(losses[-TELL_EVERY:])).double().mean().item()
    if not mean < DIVERGED:
        raise TrainingError(
            f"the training diverged in stage {stage + 1}, before step {step}: its loss is "
            f"{mean:g}; lower the rate, or look for images with extreme values"
        )
