"""8-bit integers with float scales on a checkpoint: what every toolkit offers.

    python peer_int8.py CHECKPOINT.safetensors --to FOLDER

Symmetric, round to nearest, 255 levels; one scale a tensor or one an output channel. Tensors of one
dimension stay float32. The file is a safetensors file of int8 tensors and float32 scales; its
deflated copy (ZIP, level 9) is a row of its own.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from peer import State, hand_over, read_floats
from safetensors.numpy import load_file, save_file


def quantised(floats: State, *, per_channel: bool) -> State:
    """Return int8 tensors with their scales under ``NAME.scale``, and the rest as it is."""
    file: State = {}
    for name, values in floats.items():
        if values.ndim < 2:
            file[name] = values
            continue
        axes = tuple(range(1 if per_channel else 0, values.ndim))
        scale = np.abs(values).max(axis=axes, keepdims=True) / np.float32(127)
        scale = np.where(scale > 0, scale, np.float32(1))
        file[name] = np.rint(values / scale).astype(np.int8)
        file[f"{name}.scale"] = scale.astype(np.float32)
    return file


def dequantised(file: State) -> State:
    """Return the float tensors of a file."""
    return {
        name: values * file[f"{name}.scale"] if values.dtype == np.int8 else values
        for name, values in file.items()
        if not name.endswith(".scale")
    }


def main() -> None:
    """Quantise, write, read, hand over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--to", type=Path, required=True, help="folder for decoded checkpoints")
    arguments = parser.parse_args()
    floats = read_floats(arguments.checkpoint)
    for per_channel in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path, zipped = Path(folder) / "int8.safetensors", Path(folder) / "int8.zip"
            save_file(quantised(floats, per_channel=per_channel), path)
            with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
                archive.write(path, path.name)
            sizes = {"": path.stat().st_size, ", zipped": zipped.stat().st_size}
            decoded = dequantised(load_file(path))
        for suffix, size_bytes in sizes.items():
            hand_over(
                arguments.to,
                arguments.checkpoint,
                decoded,
                peer="int8",
                setting=f"per {'channel' if per_channel else 'tensor'}{suffix}",
                size_bytes=size_bytes,
                packages=("numpy", "safetensors"),
            )


if __name__ == "__main__":
    main()
