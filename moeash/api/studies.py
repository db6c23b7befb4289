"""Run a study of a spec, or search how to share the weights of a module."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moeash.api.common import inputs_for, method_table, overlaid
from moeash.api.showing import Shown, doing, listening
from moeash.data.unlabelled import Given
from moeash.errors import EvaluationError, InputError
from moeash.files import TemporaryFolder
from moeash.methods.registry import build_method
from moeash.names import contained
from moeash.networks.devices import device_of
from moeash.options.arguments import checked
from moeash.study.artifacts import Build
from moeash.study.opening import DEFAULT_STORAGE, Place, open_storage
from moeash.study.plan import Plan, task_of
from moeash.study.run import run as run_plan
from moeash.study.spec.reading import any_spec, spec_of_module
from moeash.study.spec.spec import StudySpec
from moeash.study.spec.starting import with_start
from moeash.study.storage.base import Storage
from moeash.study.study import Study
from moeash.tracing.outputs import OutputOf

if TYPE_CHECKING:
    from moeash.exports.output import Output


@contained()
@checked("progress", "retry_failed", "accept_baseline")
def run(
    spec: str | Path | Mapping[str, Any] | StudySpec,
    *,
    storage: Place | Storage | None = None,
    progress: Shown = True,
    retry_failed: bool = False,
    accept_baseline: bool = False,
) -> Study:
    """Run a study to its end, or continue it where it was interrupted.

    Args:
        spec: path of a TOML file, its content as nested mappings, or a checked spec. Its
            ``[output]`` is the command line's; see :func:`run_with_output`.
        storage: database URL or SQLite path; default ``MOEASH_STORAGE`` or ``./moeash.db``.
        progress: who hears of it.
        retry_failed: evaluate again what has failed through no fault of its own: workers lost,
            too slow, out of memory. The search then learns of it, and may propose other candidates
            from there on; nothing that was measured is lost.
        accept_baseline: continue although the float network is another function than it was, which
            mixes old values and new ones.

    Returns:
        The finished study.

    Raises:
        SpecError: the spec does not say what to do.
        StudyExistsError: the name is taken by another spec, network or evaluation set, or the same
            weights are another function now.
        StudyLockedError: another process works on it.
        EvaluationError: every candidate failed; says why the first did.

    Example:
        >>> import moeash
        >>> study = moeash.run({
        ...     "name": "digits",
        ...     "network": {"source": "digits-cnn"},
        ...     "data": {
        ...         "source": "digits",
        ...         "splits": {"search": {"part": "all", "range": [0, 100]}},
        ...     },
        ...     "method": {"k": [8, 16]},
        ...     "search": {"algorithm": "exhaustive"},
        ...     "merge": {"trials": 0},
        ... }, progress=False)
        >>> study.status
        'finished'
        >>> all(8 <= solution.entries <= 16 for solution in study.front())
        True
    """
    return _run(spec, storage, progress, retry_failed, accept_baseline)[0]


@contained()
def run_with_output(
    spec: str | Path | Mapping[str, Any] | StudySpec,
    *,
    storage: Place | Storage | None = None,
    progress: Shown = True,
    retry_failed: bool = False,
    accept_baseline: bool = False,
) -> tuple[Study, "Output | None"]:
    """Run a study as :func:`run` does, and write what its ``[output]`` asks for.

    The front and its pictures are written whether or not a solution is within the limits.

    Returns:
        The finished study, and what was written; None without ``[output]``.

    Raises:
        ExportError: the output folder cannot be written, which is found out before the search.
        EvaluationError: every candidate failed; says why the first did.
    """
    return _run(spec, storage, progress, retry_failed, accept_baseline, with_output=True)


def _run(
    spec: str | Path | Mapping[str, Any] | StudySpec,
    storage: Place | Storage | None,
    progress: Shown,
    retry_failed: bool,
    accept_baseline: bool,
    *,
    with_output: bool = False,
) -> tuple[Study, "Output | None"]:
    plan = Plan.from_spec(any_spec(spec))
    options = plan.spec.output if with_output else None
    if options is not None:
        # With it comes matplotlib, half a second that a study without output need not wait for.
        from moeash.exports.output import make_folder, write_output

        make_folder(Path(options.folder), plan.spec.name)
    written: list[Output] = []
    with listening(progress) as listen:

        def finished(study: Study, build: Build) -> None:
            if options is not None:
                task = task_of(study)
                written.append(write_output(study, options, task, build, doing(listen)))

        study = run_plan(
            plan,
            open_storage(storage),
            plan.make_backend,
            listen,
            retry_failed=retry_failed,
            accept_baseline=accept_baseline,
            finished=finished,
        )
    _refuse_nothing(study)
    return study, written[0] if written else None


@contained()
@checked("evaluate", "output", "accept_baseline", "progress")
def search(
    module: nn.Module,
    *,
    evaluate: Callable[[nn.Module], float],
    calibration: Given | None = None,
    output: OutputOf | None = None,
    name: str | None = None,
    storage: Place | Storage | None = None,
    method: str | Mapping[str, Any] = "uniform",
    max_drop: float | None = None,
    population: int = 20,
    generations: int = 15,
    seed: int = 0,
    spec: Mapping[str, Any] | None = None,
    accept_baseline: bool = False,
    progress: Shown = True,
) -> Study:
    """Search how to share the weights of any module, measured by any function.

    Args:
        module: a trained module; it holds candidates' weights while ``evaluate`` runs and its own
            weights again when the search returns or raises.
        evaluate: ``evaluate(module) -> float``, finite, higher is better, deterministic.
        calibration: unlabelled inputs for methods that look at some: a tensor ``(n, ...)``, a
            mapping of such by name of argument, a dataset, or batches such as a ``DataLoader``
            gives. Items and batches are tensors, mappings by name of argument, or tuples of as many
            arguments as ``forward`` needs; a label behind them is ignored. The first inputs are
            taken, as many as the method's ``images``.
        output: ``output(returned) -> tensor`` names what counts of what the module returns for
            calibration inputs: class scores ``(n, classes)``, ``(n, t, classes)`` of sequences, or
            single values ``(n,)`` and ``(..., 1)``, whose squared error counts; so an embedding
            ``(n, channels)`` is ``returned.unsqueeze(-1)``. Default: the tensor itself, what is
            called ``logits``, or the only floating tensor there is. It is no part of a study's
            identity, as ``evaluate`` is none.
        name: of the study; give one together with ``storage`` to make it resumable. The function
            is not part of a study's identity: use another name when it changes. A study whose
            float module, or one of its candidates, measures something else than it did is refused.
        storage: database URL or SQLite path; default: a temporary one that lives as long as the
            returned study.
        method: its name, or a mapping as ``[method]`` in a spec.
        max_drop: solutions further below the float module are not wanted, in units of ``evaluate``.
        population: candidates a generation.
        generations: at most so many.
        seed: of the search and the method.
        spec: everything else a spec can say, as nested mappings, e.g.
            ``{"network": {"exclude": ["head.*"]}, "codec": {"coder": "adaptive"}}``.
        accept_baseline: continue a study although its float module measures something else.
        progress: who hears of it.

    Returns:
        The finished study. Export with ``moeash.export(study, path)``.

    Raises:
        InputError: the module, the function or an option cannot be used.
        EvaluationError: every candidate failed; says why the first did.

    Example:
        >>> import moeash
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> network = torch.nn.Linear(8, 4)
        >>> x = torch.randn(64, 8)
        >>> with torch.no_grad():
        ...     expected = network(x)
        >>> def closeness(module):
        ...     with torch.no_grad():
        ...         return -float((module(x) - expected).square().mean())
        >>> study = moeash.search(
        ...     network, evaluate=closeness, method={"k": [2, 16]}, generations=3, progress=False
        ... )
        >>> best = study.pick("best")
        >>> best.drop < 0.01
        True
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"search needs a torch.nn.Module, got {type(module).__name__}")
    described = spec_of_module(
        overlaid(
            {
                "name": type(module).__name__ if name is None else name,
                "seed": seed,
                "evaluation": {"max_drop": max_drop, "device": str(device_of(module))},
                "method": method_table(method),
                "search": {"population": population},
                "budget": {"generations": generations},
            },
            {} if spec is None else spec,
        ),
        module=type(module).__qualname__,
        metric=getattr(evaluate, "__name__", "evaluate"),
    )
    method_chosen = build_method(described.method)
    inputs = inputs_for(
        module,
        method_chosen,
        calibration,
        described.codec,
        output,
        trained_by=described.trained_by,
    )
    described = with_start(described)
    if inputs is not None:
        described = replace(described, calibration=inputs.fingerprint())
    task = replace(
        described.task(module=module, evaluate=evaluate, calibration=inputs, output=output),
        n_threads=described.evaluation.threads or torch.get_num_threads(),
    )
    plan = Plan(described, task)
    folder = None if storage is not None else TemporaryFolder("moeash-search-")
    try:
        store = open_storage(storage if folder is None else folder.path / DEFAULT_STORAGE)
        with listening(progress) as listen:
            study = run_plan(
                plan, store, plan.make_backend, listen, accept_baseline=accept_baseline
            )
    except BaseException:
        if folder is not None:
            folder.close()
        raise
    study.task = task
    _refuse_nothing(study)
    if folder is not None:
        weakref.finalize(study, folder.close)
    return study


def _refuse_nothing(study: Study) -> None:
    """Refuse to hand out a study none of whose candidates could be measured."""
    (counted,) = study.storage.summaries([study.name])
    n_failed = counted.n(status="failed")
    if n_failed and n_failed == counted.n():
        first = study.storage.evaluations(study.record.id, status="failed", limit=1)[0]
        raise EvaluationError(
            f"all {n_failed} candidates failed; the first, {first.recipe}: {first.outcome.error}"
        )
