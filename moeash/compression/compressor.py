"""The compressor: the only way from a recipe to shared weights, whoever asks.

It is made once per network, which is the dear part: BatchNorms are folded where that is wanted, the
method prepares, and how kept tensors are stored is decided. :meth:`Compressor.build` then builds
any recipe: the longest part that is at hand (an artifact, or what was compressed lately, or else
the candidate compressed again) and the steps that remain. A step that trains begins with what the
file would hold, so it makes no difference where its beginning comes from.

Images of the search split are looked at only where something has to be decided on them, so a
decision that is known already costs none. Folding reads a few of them where there is no calibration
split: to see which layer reads what, and that the outputs stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from moeash.codec.container import decode
from moeash.compression.folding import Folding, fold_norms, some_images
from moeash.compression.keeping import Measure, Stored, decide_keeping
from moeash.compression.options import CodecOptions
from moeash.compression.preparations import Preparations
from moeash.compression.remeasuring import IMAGES, Remeasuring, calibration_images
from moeash.compression.training import ImagesOf, Trainings
from moeash.core.codebook import SharedWeights, State
from moeash.core.histogram import Histogram
from moeash.core.kept import Keeping
from moeash.core.merge import merge_runs
from moeash.core.progress import Progress, silent
from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Distill, Merge, Recipe, Refine, Start, Tune
from moeash.core.solutions.variables import Variable, middle
from moeash.data.inputs import Batch, Inputs
from moeash.data.splits import Split
from moeash.errors import InputError
from moeash.methods.base import Images, Method, Preparation
from moeash.methods.training.distilling import distill
from moeash.methods.training.method import TrainedMethod
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.tuning import tune
from moeash.networks.network import Network
from moeash.networks.pickling import read_only_tensor
from moeash.networks.writing.inplace import WeightWriter
from moeash.options.tables import to_plain
from moeash.tracing.watching import derivatives

REMEMBERED_BYTES = 64 << 20
"""Indices of compressed candidates that are kept for the recipes that begin with them: a merge pass
tries many merges of one solution, and a refined one takes longer to compress than to measure."""


@dataclass(frozen=True, eq=False)
class Groundwork:
    """What compressors of one study have in common: one makes it, all may read the same memory.

    Attributes:
        state: the float state, with BatchNorms folded if they are.
        prepared: the method's arrays.
        stored: how kept tensors are stored.
        calibration: images on which BatchNorms are measured again; None when they are not.
    """

    state: State
    prepared: Any
    stored: Stored
    calibration: NDArray[Any] | Inputs | None = None


@dataclass(frozen=True)
class Circumstances:
    """What a study's compressors agree on beside the network and the method.

    Attributes:
        codec: how the file is written.
        seed: of the method's random draws.
        n_threads: of kernels and BLAS.
        device: of the network.
        batch_size: images of a forward pass.
        refines: whether recipes may refine.
        folder: where what takes long is kept; None: nowhere.
        training: how candidates of methods that train are trained.
    """

    codec: CodecOptions
    seed: int
    n_threads: int
    device: str
    batch_size: int
    refines: bool = True
    folder: Path | None = None
    training: TrainingOptions = field(default_factory=TrainingOptions)


class Compressor:
    """Builds the shared weights of one network's recipes.

    The module holds float weights, folded where that is wanted, once the compressor is made, and
    whatever was built last where BatchNorms are measured again; :meth:`restore` puts the float
    weights back, as they were given.

    Attributes:
        network: with the state that is compressed.
        writer: writes into it.
        groundwork: what other compressors of the study need not make again.
        notes: what people should know, one line each.
    """

    def __init__(
        self,
        network: Network,
        method: Method,
        circumstances: Circumstances,
        inputs: Mapping[str, Images],
        *,
        search: Split | None = None,
        keeping: Keeping | None = None,
        groundwork: Groundwork | None = None,
        measure: Measure | None = None,
        train_on: ImagesOf | None = None,
        progress: Progress = silent,
    ) -> None:
        """Prepare the network.

        Args:
            network: holding its float weights, in eval mode, on its device.
            method: turns candidates into shared weights.
            circumstances: what else the weights depend on.
            inputs: the calibration split, and whatever else a method may look at.
            search: the search split, where ``keeping`` has to be decided.
            keeping: how kept tensors are stored, where that is known.
            groundwork: what another compressor of the study has made; nothing of it is made again.
            measure: a user's function, where one measures.
            train_on: returns what trainings look at; default: ``inputs``.
            progress: hears how far preparing is.

        Raises:
            InputError: the method, folding or measuring again lacks inputs.
        """
        self._method = method
        self._circumstances = circumstances
        self._given: WeightWriter | None = None  # of the weights before BatchNorms were folded
        self._recent: dict[Recipe, SharedWeights] = {}  # the one used last comes last
        self._trainings = Trainings(
            train_on or (lambda: inputs),
            seed=circumstances.seed,
            n_threads=circumstances.n_threads,
            device=circumstances.device,
            folder=circumstances.folder,
        )
        self.network = network
        self.writer = WeightWriter(network.module, network.state)
        self.folding: Folding | None = None
        self.remeasuring: Remeasuring | None = None
        if groundwork is not None:
            self.use_shared(groundwork)
            return
        try:
            self.groundwork = self._prepare(inputs, search, keeping, measure, progress)
        except BaseException:
            self.restore()
            raise

    # ------------------------------------------------------------------ preparing

    def _prepare(
        self,
        inputs: Mapping[str, Images],
        search: Split | None,
        keeping: Keeping | None,
        measure: Measure | None,
        progress: Progress,
    ) -> Groundwork:
        here = self._circumstances
        looked_at = inputs if search is None else {**inputs, "search": search}
        if here.codec.norms == "folded":
            progress("folding BatchNorms", 0, None)
            self._fold(some_images(looked_at).to(here.device))
        calibration: NDArray[Any] | Inputs | None = None
        if here.codec.norms == "remeasured":
            images = calibration_images(inputs, IMAGES, here.seed)
            self.remeasuring = Remeasuring(self.network, images, here.device)
            calibration = images.numpy() if isinstance(images, Tensor) else images
        preparation = Preparation(
            network=self.network,
            splits=inputs,
            seed=here.seed,
            n_threads=here.n_threads,
            refines=here.refines,
            progress=progress,
        )
        # A function has no digest, so what is prepared with one is not found again.
        known = self.network.output is None and self._method.calibration_images
        with derivatives():
            if here.folder is None or not known:
                prepared = self._method.prepare(preparation)
            else:
                kept = Preparations(here.folder)
                prepared = kept.prepare(self._method, preparation, here.device)
        self.groundwork = Groundwork(self.network.state, prepared, _UNDECIDED, calibration)
        if keeping is not None:
            return replace(self.groundwork, stored=Stored(keeping))
        progress("deciding how kept tensors are stored", 0, None)
        stored = decide_keeping(
            self.network,
            self.writer,
            search,
            codec=here.codec,
            typical=self._typical,
            batch_size=here.batch_size,
            device=here.device,
            inputs=inputs.get("calibration"),
            measure=measure,
        )
        return replace(self.groundwork, stored=stored)

    def _fold(self, images: Batch) -> None:
        self._given = self.writer
        self.folding = fold_norms(self.network, images)
        self.network = self.folding.network
        self.writer = WeightWriter(self.network.module, self.network.state)

    def _typical(self) -> SharedWeights:
        """Return a compressed network from the middle of the search space, kept tensors exact.

        It is not trained, whatever the method.
        """
        recipe = Recipe(middle(self.space))
        return self._adjusted(self._compressed(recipe, silent, train=False))

    def use_shared(self, groundwork: Groundwork) -> None:
        """Work with a shared copy of what one compressor has made, and let the own one go."""
        self.groundwork = groundwork
        self.network = replace(self.network, state=groundwork.state)
        self.writer = WeightWriter(self.network.module, groundwork.state)
        self._recent.clear()
        if groundwork.calibration is not None:
            given = groundwork.calibration
            images = given if isinstance(given, Inputs) else read_only_tensor(given)
            self.remeasuring = Remeasuring(self.network, images, self._circumstances.device)

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know about the preparation, one line each."""
        steps = (self.folding, self.remeasuring)
        notes = [note for step in steps if step is not None for note in step.notes]
        work = self.groundwork
        return (*notes, *self._method.notes(work.prepared), *work.stored.notes)

    def histogram(self) -> Histogram:
        """Return how the float weights lie, in the units that entries have."""
        return Histogram.of(self._method.weights(self.groundwork.prepared, self.network))

    @property
    def space(self) -> Sequence[Variable]:
        """The variables of a candidate, within the bounds that follow from the preparation."""
        return self._method.space(self.groundwork.prepared)

    @property
    def most_entries(self) -> int:
        """The most codebook entries any candidate can have."""
        return self._method.most_entries(self.groundwork.prepared)

    # ------------------------------------------------------------------ building

    def build(
        self, recipe: Recipe, *, start: Start | None = None, progress: Progress = silent
    ) -> SharedWeights:
        """Return the shared weights of a recipe, kept tensors as the file stores them.

        Where BatchNorms are measured again the network holds them afterwards.

        Args:
            recipe: what to build.
            start: the artifact it begins with, where there is one.
            progress: hears how far a slow step is.

        Raises:
            InputError: a step does not fit what it is taken on, or lacks images to train on.
            TrainingError: a training did not come to its end.
        """
        if start is not None:
            # Its kept tensors are part of what was trained, and as the file stores them already.
            n_taken, shared, finished = start.n_steps, decode(start.file).shared, True
        else:
            n_taken = int(recipe.steps[:1] == (Refine(),))
            shared, finished = self._compressed(recipe, progress), False
        for position, step in enumerate(recipe.steps[n_taken:], n_taken):
            match step:
                case Merge():
                    shared, finished = merge_runs(shared, step.runs), False
                case Tune():
                    shared = shared if finished else self._finished(shared)
                    what = {"recipe": recipe.as_dict()["steps"][: position + 1]}
                    shared, finished = self._trained(step, shared, what, progress), False
                case Refine():
                    raise InputError(f"refine is the first step of a recipe; got {recipe}")
        return shared if finished else self._finished(shared)

    def _finished(self, shared: SharedWeights) -> SharedWeights:
        return self.groundwork.stored.keeping.apply(self._adjusted(shared))

    @derivatives()
    def _trained(
        self, step: Tune, shared: SharedWeights, what: Mapping[str, Any], progress: Progress
    ) -> SharedWeights:
        """Return a solution after a step that trains."""
        shared_by_both = (option.name for option in fields(TrainingOptions))
        options = TrainingOptions(**{name: getattr(step, name) for name in shared_by_both})
        begins = {"begins": shared.fingerprint(), **what}
        session = self._trainings.session(self.network, options, begins, progress)
        if isinstance(step, Distill):
            trained = distill(step, shared, self.network, session)
        else:
            trained = tune(step, shared, self.network, session)
        self._trainings.finished(session)
        return trained

    @derivatives()
    def _trained_by(
        self, method: TrainedMethod, candidate: Candidate, progress: Progress
    ) -> SharedWeights:
        """Return a candidate of a method that trains."""
        start = method.start(self.network)
        configured = to_plain(method.options, defaults=True) | {"name": method.name}
        configured.pop("start", None)  # its file may move
        what = {
            "method": configured,
            "candidate": candidate.as_dict(),
            "begins": None if start is None else start.fingerprint(),
        }
        options = self._circumstances.training
        session = self._trainings.session(self.network, options, what, progress)
        trained = method.train(
            self.groundwork.prepared, candidate, network=self.network, session=session, start=start
        )
        self._trainings.finished(session)
        return trained

    @derivatives()
    def check_training(self, steps: Sequence[Tune] = ()) -> Sequence[str]:
        """Return what people should know before anything is trained, one line each.

        Args:
            steps: that solutions will be trained in.

        Raises:
            InputError: nothing can be trained, the solution to begin with does not fit, or a step
                would change nothing.
        """
        if isinstance(self._method, TrainedMethod):
            self._method.start(self.network)
        return self._trainings.check(self.network, self._circumstances.training, steps)

    def _compressed(
        self, recipe: Recipe, progress: Progress, *, train: bool = True
    ) -> SharedWeights:
        """Return a candidate compressed, refined if the recipe says so, and remember it."""
        method = self._method
        if train and isinstance(method, TrainedMethod):
            # Not remembered: its file is stored.
            return self._trained_by(method, recipe.candidate, progress)
        refined = recipe.steps[:1] == (Refine(),)
        prefix = Recipe(recipe.candidate, recipe.steps[: int(refined)])
        shared = self._recent.pop(prefix, None)
        if shared is None:
            shared = self._method.compress(
                self.groundwork.prepared,
                recipe.candidate,
                refined=refined,
                network=self.network,
                progress=progress,
            )
        self._recent[prefix] = shared
        while sum(map(_n_bytes, self._recent.values())) > REMEMBERED_BYTES:
            del self._recent[next(iter(self._recent))]
        return shared

    def _adjusted(self, shared: SharedWeights) -> SharedWeights:
        """Measure BatchNorms again where that is wanted."""
        if self.remeasuring is None:
            return shared
        return self.remeasuring.apply(self.writer, shared)

    def restore(self) -> None:
        """Put the float weights back into the module, as they were given."""
        self.writer.restore()
        if self._given is not None:
            self._given.restore()


_UNDECIDED = Stored(Keeping("float32"))
"""How kept tensors are stored while that is being decided."""


def _n_bytes(shared: SharedWeights) -> int:
    return sum(tensor.indices.nbytes for tensor in shared.shared)
