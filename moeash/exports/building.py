"""Build solutions of a study that ran elsewhere; of its search split few images are needed."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, cached_property

from moeash.codec.container import decode
from moeash.compression.compressor import Compressor
from moeash.core.codebook import SharedWeights
from moeash.core.progress import Progress, silent
from moeash.core.solutions.recipe import Recipe
from moeash.data.splits import Split, load_splits
from moeash.errors import InputError, RebuildMismatchError
from moeash.evaluation.assess import SAMPLED_IMAGES, sample_of
from moeash.evaluation.forward import Forward
from moeash.evaluation.loading import arithmetic, compressor_of, load_network
from moeash.evaluation.task import Task
from moeash.networks.network import Network
from moeash.networks.parameters import network_fingerprint
from moeash.study.admission import changed_outputs
from moeash.study.artifacts import Build, start_of
from moeash.study.plan import task_of
from moeash.study.solution import Solution
from moeash.study.spec.spec import StudySpec
from moeash.study.storage.records import EvaluationRecord
from moeash.study.study import Study
from moeash.tracing.watching import in_eval_mode


@contextmanager
def building(
    study: Study,
    progress: Progress = silent,
    *,
    measures: bool = False,
    accept_baseline: bool = False,
) -> Iterator[Build]:
    """Hold what builds a study's recipes, and prepares it once something is to be built.

    What was trained or refined lies in storage as a file, and is only read.

    Args:
        study: with a spec from which its network can be loaded, or searched in this process.
        progress: hears how far preparing is, unless it was prepared before and kept.
        measures: what is built will be measured on the holdout split, so the images must be those
            of the study even where their path is the one it always was, and the network the same
            function.
        accept_baseline: measure although it is another one.

    Raises:
        InputError: files are not those of the study, moved or not.
        RebuildMismatchError: the network's code, or the module, changed since the study ran.
    """
    task = task_of(study)
    ran_on = study.spec.evaluation.device
    if study.task is None and task.evaluation.device != ran_on:
        progress(f"on the CPU, as {ran_on}, where the study ran, is not here", 0, None)
    here = _Here(task)
    _check_files(study, here, measures=measures)
    if measures and not accept_baseline:
        _check_code(study, here)
    del here  # its weights need not stay
    keeps = task.method.keeps_artifacts

    @cache
    def known() -> dict[str, EvaluationRecord]:
        return {record.job.key: record for record in study.evaluations()}

    def find(key: str) -> EvaluationRecord | None:
        return known().get(key)

    with ExitStack() as held:

        @cache
        def compressor() -> Compressor:
            _check_module(study, task)
            return held.enter_context(compressor_of(task, progress))

        def build(recipe: Recipe) -> SharedWeights:
            start = start_of(recipe, find, study.artifact, keeps_artifacts=keeps)
            if start is not None and start.n_steps == len(recipe.steps):
                return decode(start.file).shared
            return compressor().build(recipe, start=start, progress=progress)

        yield build


class _Here:
    """What there is here of a study, each loaded once and only where it is looked at."""

    def __init__(self, task: Task) -> None:
        self.task = task

    @cached_property
    def network(self) -> Network:
        return load_network(self.task)

    @cached_property
    def network_fingerprint(self) -> str:
        return network_fingerprint(self.network.state)

    @cached_property
    def search(self) -> Split:
        assert self.task.data is not None
        return load_splits(self.task.data)["search"]


def _check_code(study: Study, here: _Here) -> None:
    """Refuse code that makes another function of the same weights: no value of old is of it."""
    if here.task.data is None or not study.facts.sample:
        return
    if here.network_fingerprint != study.facts.network_fingerprint:
        return  # other weights show when a solution is built
    few = replace(here.search, indices=here.search.indices[:SAMPLED_IMAGES])
    images, _ = next(iter(few.batches(SAMPLED_IMAGES)))
    options, module = here.task.evaluation, here.network.module
    with arithmetic(here.task), in_eval_mode(module):
        outputs = Forward(module, options.device, options.precision).first(images)
    changed = changed_outputs(study.facts, sample_of(outputs.cpu()), options.precision)
    if changed is not None:
        raise RebuildMismatchError(
            f"the network of study {study.name!r} is another function than when its solutions were "
            f"measured: {changed}, which is more than rounding explains. Was its code changed? "
            "Give it back, or measure the new one on the holdout split with --accept-baseline "
            "(accept_baseline=True)"
        )


def _check_module(study: Study, task: Task) -> None:
    """Refuse a module whose state is not what was searched: pieces of it may not even fit."""
    if study.task is None:
        return
    network = load_network(task)
    if network_fingerprint(network.state) != study.facts.network_fingerprint:
        raise RebuildMismatchError(
            f"{type(network.module).__name__} rebuilds to other weights than were measured: its "
            f"own weights, or the tensors its state holds, are not those study {study.name!r} was "
            "run with; did evaluate(module), or a training, change it?"
        )


def check_rebuilt(solution: Solution, shared: SharedWeights) -> None:
    """Refuse shared weights that are not the ones a solution was measured with.

    Raises:
        RebuildMismatchError: they are others.
    """
    fingerprint, measured = shared.fingerprint(), str(solution.record.outcome.fingerprint)
    if fingerprint != measured:
        raise RebuildMismatchError(
            f"solution {solution.id} rebuilds to other weights than were measured "
            f"({fingerprint[:12]}, measured {measured[:12]}); the network, its calibration images, "
            "the method's version, its library or the device changed since the study ran"
        )


def _check_files(study: Study, here: _Here, *, measures: bool) -> None:
    """Refuse files that somebody says are the study's and are not.

    A checkpoint that changed where it lies builds other weights, which are compared; images that
    changed where they lie would only be measured on.
    """
    facts, now = study.facts, study.spec
    stored = StudySpec.from_dict(facts.spec)
    if now.network.checkpoint != stored.network.checkpoint:
        _check_same(
            "network.checkpoint",
            now.network.checkpoint,
            here.network_fingerprint,
            facts.network_fingerprint,
        )
    if now.data is None or stored.data is None or now.data.root is None:
        return
    if now.data.root != stored.data.root or (measures and "holdout" in now.data.splits):
        found = replace(here.search).fingerprint()  # whose images need not stay
        _check_same("data.root", now.data.root, found, facts.data_fingerprint)


def _check_same(place: str, path: str | None, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{place} = {path!r} is not what the study was run with (fingerprint {found[:12]}, "
            f"was {expected[:12]}); give the path that the same files have now"
        )
