"""NNCodec (ISO/IEC 15938-17) on a checkpoint, in an environment of its own.

    python peer_nncodec.py CHECKPOINT.safetensors --qp -24 --to DECODED.safetensors

Writes the decoded checkpoint and prints the bytes of the bit stream as written to disk. Measure the
decoded checkpoint with ``measure.py``. The environment is described in README.md: NNCodec's pins
clash with moeash's.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

# torchvision's wheel is built for CUDA: beside a CPU build of torch its operators must be declared.
_library = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from nncodec.nn import decode, encode  # noqa: E402


def main() -> None:
    """Encode, write, decode, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--qp", type=int, required=True, help="quantisation parameter, e.g. -24")
    parser.add_argument("--to", type=Path, required=True, help="decoded checkpoint to write")
    arguments = parser.parse_args()
    state = load_file(arguments.checkpoint)
    floats = {
        name: np.ascontiguousarray(values, dtype=np.float32)
        for name, values in state.items()
        if np.issubdtype(values.dtype, np.floating)
    }
    with tempfile.TemporaryDirectory() as folder:
        options = {"qp": arguments.qp, "use_dq": True, "results": folder, "verbose": False}
        stream = encode(floats, args=options)
        path = Path(folder) / "stream.nnc"
        path.write_bytes(stream)
        size_bytes = path.stat().st_size
        decoded = decode(bytearray(path.read_bytes()))
    for name, values in decoded.items():
        state[name] = np.asarray(values, dtype=np.float32).reshape(state[name].shape)
    save_file(state, arguments.to)
    print(
        json.dumps({"peer": "NNCodec", "setting": f"qp {arguments.qp}", "size_bytes": size_bytes})
    )


if __name__ == "__main__":
    main()
