"""What one compressed network measures once each of its files was loaded by what reads it."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import moeash
import moeash.nn
from studies.compiled import in_c

Embed = Callable[[Mapping[str, Tensor]], Tensor]
"""A batch of sentences, by name of the network's arguments, to embeddings."""

FORMATS = ("moeash", "safetensors", "torch", "onnx", "c")


def consumers(
    files: Mapping[str, Path], fresh: Callable[[], nn.Module], n_tokens: int
) -> dict[str, Callable[[], Embed]]:
    """Return what loads the network from each file, by name.

    Args:
        files: by format.
        fresh: makes an untrained network in eval mode.
        n_tokens: tokens a sentence has in the ONNX file, where that axis is fixed.
    """

    def of_state(state: Mapping[str, Tensor]) -> Embed:
        network = fresh()
        network.load_state_dict(state)
        return lambda batch: network(**batch)

    def moeash_file() -> Embed:
        network = fresh()
        moeash.load(files["moeash"], into=network)
        return lambda batch: network(**batch)

    def small_in_memory() -> Embed:
        network = fresh()
        moeash.nn.compress_(network, files["moeash"])
        return lambda batch: network(**batch)

    def in_onnxruntime() -> Embed:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            files["onnx"], options, providers=["CPUExecutionProvider"]
        )

        def embed(batch: Mapping[str, Tensor]) -> Tensor:
            given = {
                name: functional.pad(values, (0, n_tokens - values.shape[1])).numpy()
                for name, values in batch.items()
            }
            (embeddings,) = session.run(None, given)
            return torch.from_numpy(embeddings)

        return embed

    return {
        "moeash.load": moeash_file,
        "moeash.nn.compress_": small_in_memory,
        "safetensors": lambda: of_state(load_file(files["safetensors"])),
        "torch.load": lambda: of_state(torch.load(files["torch"], weights_only=True)),
        "onnxruntime": in_onnxruntime,
        "C": lambda: of_state(in_c(files["c"], fresh().state_dict())),
    }


def measured(
    files: Mapping[str, Path],
    fresh: Callable[[], nn.Module],
    batches: Sequence[Mapping[str, Tensor]],
    cosines: Callable[[Sequence[Tensor]], Tensor],
    n_tokens: int,
) -> list[dict[str, Any]]:
    """Load every file and measure it; one line each.

    Args:
        files: by format.
        fresh: makes an untrained network in eval mode.
        batches: sentences.
        cosines: of their embeddings to the float network's.
        n_tokens: as for :func:`consumers`.
    """
    rows = []
    for name, load in consumers(files, fresh, n_tokens).items():
        started = time.process_time()
        embed = load()
        loaded = time.process_time()
        with torch.inference_mode():
            found = cosines([embed(batch) for batch in batches])
        row = {
            "consumer": name,
            "mean": float(found.mean()),
            "least": float(found.min()),
            "load_s": round(loaded - started, 2),
            "run_s": round(time.process_time() - loaded, 2),
        }
        rows.append(row)
        print(row, flush=True)
    return rows
