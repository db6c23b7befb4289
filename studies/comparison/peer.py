"""What every peer hands over: a decoded checkpoint, and beside it what its file took.

Needs NumPy and safetensors only, so it works in every peer's environment.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

State = dict[str, NDArray[Any]]


def read_floats(checkpoint: Path) -> State:
    """Return the float tensors of a checkpoint as float32; counters are left out."""
    return {
        name: np.ascontiguousarray(values, dtype=np.float32)
        for name, values in load_file(checkpoint).items()
        if np.issubdtype(values.dtype, np.floating)
    }


def hand_over(
    folder: Path,
    checkpoint: Path,
    decoded: State,
    *,
    peer: str,
    setting: str,
    size_bytes: int,
    packages: tuple[str, ...],
    **more: Any,
) -> None:
    """Write ``CHECKPOINT-PEER-SETTING.safetensors`` and ``.json`` for ``measure.py``.

    Args:
        folder: where to.
        checkpoint: what was compressed; tensors that were not decoded are taken from it.
        decoded: what came out of the peer's file.
        peer: its name.
        setting: what was asked of it.
        size_bytes: of its file or files on disk.
        packages: whose versions to write down.
        more: other facts of the row.
    """
    state = load_file(checkpoint)
    for name, values in decoded.items():
        state[name] = np.ascontiguousarray(values, np.float32).reshape(state[name].shape)
    facts = {
        "peer": peer,
        "setting": setting,
        "size_bytes": size_bytes,
        "versions": {package: version(package) for package in packages},
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{checkpoint.stem}-{peer}-{setting}".replace(" ", "_").replace(",", "")
    save_file(state, folder / f"{stem}.safetensors")
    (folder / f"{stem}.json").write_text(json.dumps(facts))
    print(json.dumps(facts))
