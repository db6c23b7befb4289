"""Where a compressor's trainings happen: their images, and the file each is saved in.

A training is saved under a digest of all it depends on, so whoever is asked for the same one, in
this process or another, goes on where it stood. Of the trainings a process has finished the last
one's file stays: what came of it may not be stored yet. It may be deleted at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from moeash.compression.preparations import depends_on, digest_of_plain
from moeash.core.progress import Progress
from moeash.core.solutions.recipe import Distill, Tune
from moeash.errors import InputError
from moeash.methods.base import Images
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.distilling import refuse_standstill
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.trainable import notes_on, some_of
from moeash.networks.network import Network

TRAINED_ON = ("train", "calibration")
"""The splits that trainings may see; the first that a study has is taken."""

ImagesOf = Callable[[], Mapping[str, Images]]
"""Returns what may be looked at, by split."""


class Trainings:
    """Makes the sessions of one compressor."""

    def __init__(
        self,
        inputs: ImagesOf,
        *,
        seed: int,
        n_threads: int,
        device: str,
        folder: Path | None,
    ) -> None:
        """Train nothing yet.

        Args:
            inputs: returns the images; asked when the first training begins.
            seed: of all trainings.
            n_threads: of torch.
            device: of the network.
            folder: where trainings are saved; None: nowhere.
        """
        self._inputs = inputs
        self._seed = seed
        self._n_threads = n_threads
        self._device = device
        self._folder = folder
        self._finished: Checkpoint | None = None

    def session(
        self,
        network: Network,
        options: TrainingOptions,
        what: Mapping[str, Any],
        progress: Progress,
    ) -> Session:
        """Return where to train.

        Args:
            network: what is trained.
            options: how.
            what: else the training depends on, plain values.
            progress: hears how far it is.

        Raises:
            InputError: there is nothing to train on.
        """
        checkpoint = None
        if self._folder is not None:
            depends = depends_on(network, self._device, self._seed, self._n_threads)
            depends |= {
                "training": dict(what),
                "options": vars(options),
                "images": self._fingerprint,
            }
            checkpoint = Checkpoint(self._folder, digest_of_plain(depends))
        return Session(
            self._images,
            options,
            self._seed,
            self._device,
            checkpoint=checkpoint,
            progress=progress,
        )

    def finished(self, session: Session) -> None:
        """Learn that a training has come to its end."""
        if self._finished is not None and self._finished != session.checkpoint:
            self._finished.delete()
        self._finished = session.checkpoint

    def check(
        self, network: Network, options: TrainingOptions, steps: Sequence[Tune]
    ) -> Sequence[str]:
        """Return what people should know before anything is trained, one line each.

        Args:
            network: in eval mode.
            options: how it will be trained.
            steps: that its solutions will be trained in.

        Raises:
            InputError: there is nothing to train or to train on, or a step would change nothing.
        """
        some = some_of(self._images, self._device)
        notes = notes_on(network, some, self._device, options)
        for step in steps:
            if isinstance(step, Distill):
                refuse_standstill(step, len(self._images), options.batch_size)
        return notes

    @cached_property
    def _fingerprint(self) -> str:
        return self._images.fingerprint()

    @cached_property
    def _images(self) -> Images:
        inputs = self._inputs()
        for name in TRAINED_ON:
            if name in inputs:
                return inputs[name]
        raise InputError(
            "there are no images to train on; add [data.splits.train], or from Python calibration="
        )
