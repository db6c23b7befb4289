"""What one compressed network measures once each of its files was loaded by what reads it."""

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import moeash
import moeash.nn

Embed = Callable[[Mapping[str, Tensor]], Tensor]
"""A batch of sentences, by name of the network's arguments, to embeddings."""

FORMATS = ("moeash", "safetensors", "torch", "onnx", "c")

C_PROGRAM = """\
#define MINILM_IMPLEMENTATION
#include "minilm.h"
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    unsigned char *buffer = malloc(MINILM_BYTES);
    size_t i;
    if (!buffer)
        return 1;
    for (i = 0; i < MINILM_TENSORS; i++) {
        minilm_decode(i, buffer + minilm_tensors[i].offset);
        fwrite(buffer + minilm_tensors[i].offset, minilm_tensors[i].element_bytes,
               minilm_tensors[i].elements, stdout);
    }
    free(buffer);
    return 0;
}
"""
"""Writes every tensor as bytes, in the order of the state_dict."""

GCC = "gcc -std=c99 -Wall -Wextra -Werror -pedantic -O1 main.c -o main"


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


def in_c(header: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a program decodes which was compiled with the header."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "main.c").write_text(C_PROGRAM)
        (folder / "minilm.h").symlink_to(header.resolve())
        subprocess.run(GCC.split(), cwd=folder, check=True)
        decoded = subprocess.run(["./main"], cwd=folder, check=True, capture_output=True).stdout
    state, start = {}, 0
    for name, tensor in like.items():
        array = np.frombuffer(decoded, np.float32, tensor.numel(), start)
        state[name] = torch.from_numpy(array.copy()).reshape(tensor.shape)
        start += array.nbytes
    if start != len(decoded):
        raise SystemExit(f"the program wrote {len(decoded)} bytes where {start} were expected")
    return state


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
