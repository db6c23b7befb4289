"""One file without a study: of a spec's network for a goal, or of any checkpoint's weights."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moeash.api.showing import Shown, doing, listening
from moeash.compression.weights.compressing import WeightsReport
from moeash.compression.weights.compressing import compress_checkpoint as compress_weights
from moeash.exports.reaching import GoalReport, compress_for
from moeash.files import check_target
from moeash.names import contained
from moeash.options.arguments import checked
from moeash.runtime.threads import default_threads
from moeash.study.spec.reading import any_spec
from moeash.study.spec.spec import StudySpec


@contained()
@checked("max_kl", "max_drop", "max_bytes", "force", "progress")
def compress_spec(
    spec: str | Path | Mapping[str, Any] | StudySpec,
    to: str | Path,
    *,
    max_kl: float | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    force: bool = False,
    progress: Shown = True,
) -> GoalReport:
    """Compress the network of a study's spec for one goal, without running the study.

    The method prepares once, its number of bins is bisected on the search split, neighbouring
    rates are tried, what was found is refined, and the file is measured on the search and the
    holdout split. Exactly one of the three limits is given.

    Args:
        spec: path of a TOML file, its content as nested mappings, or a checked spec; its network,
            data, method and codec count, and not how it would search.
        to: target file.
        max_kl: largest Kullback-Leibler divergence from the float network, in nats; the file is
            made as small as it allows.
        max_drop: likewise, largest drop of the spec's metric; of top-1 where that is the
            divergence.
        max_bytes: largest file; the divergence is made as small as it allows.
        force: replace an existing file.
        progress: who hears of it.

    Returns:
        What was written and how it measures.

    Raises:
        InputError: not exactly one limit is given, the method trains its candidates, or the target
            exists.
        NothingMeetsError: nothing within the method's bounds meets the limit.
        ExportError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> spec = {
        ...     "name": "digits",
        ...     "network": {"source": "digits-cnn"},
        ...     "data": {
        ...         "source": "digits",
        ...         "splits": {"search": {"part": "all", "range": [0, 100]}},
        ...     },
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to = f"{folder}/digits.moeash"
        ...     report = moeash.compress_spec(spec, to, max_kl=0.05, progress=False)
        >>> report.search.divergence <= 0.05, report.ratio > 8
        (True, True)
    """
    check_target(to, force=force)
    with listening(progress) as listen:
        return compress_for(
            any_spec(spec).task(),
            to,
            max_kl=max_kl,
            max_drop=max_drop,
            max_bytes=max_bytes,
            progress=doing(listen),
        )


@checked("include", "exclude", "force", "progress")
def compress_checkpoint(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str],
    *,
    k: int | None = None,
    bits: float | None = None,
    max_error: float | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    force: bool = False,
    progress: Shown = True,
) -> WeightsReport:
    """Write a compressed checkpoint by its weights alone; no network and no data are needed.

    See :func:`moeash.compression.weights.compressing.compress_checkpoint`, which this calls with
    the threads there are.

    Args:
        path: a safetensors file, the ``*.safetensors.index.json`` of a sharded checkpoint, or a
            folder that holds either. Of any size: a few megabytes of it are in memory at a time.
        to: target file.
        k: number of uniform bins.
        bits: instead, about how many bits a shared weight shall take.
        max_error: instead, the most that each shared tensor may move by, in the norm, relative to
            its norm.
        include: share only tensors that match one of these patterns.
        exclude: keep tensors that match one of these.
        force: replace an existing file.
        progress: who hears of it.

    Raises:
        InputError: an option is out of its range, or the target exists.
        CheckpointError: the checkpoint cannot be read.
        ExportError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import torch
        >>> from safetensors.torch import save_file
        >>> folder = tempfile.mkdtemp()
        >>> save_file({"layer.weight": torch.randn(200, 300)}, f"{folder}/model.safetensors")
        >>> report = moeash.compress_checkpoint(
        ...     folder, f"{folder}/model.moeash", bits=3, progress=False
        ... )
        >>> round(report.bits_per_weight), report.ratio > 10
        (3, True)
    """
    with listening(progress) as listen:
        return compress_weights(
            path,
            to,
            k=k,
            bits=bits,
            max_error=max_error,
            include=include,
            exclude=exclude,
            force=force,
            n_threads=default_threads(),
            progress=doing(listen),
        )
