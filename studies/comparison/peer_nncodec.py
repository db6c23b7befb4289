"""NNCodec (ISO/IEC 15938-17) on a checkpoint, in an environment of its own (see README.md).

    python peer_nncodec.py CHECKPOINT.safetensors --qp -26 -24 -22 --to FOLDER

Writes the decoded checkpoints and the bytes of the bit streams as written to disk.
"""

import argparse
import importlib.util
import tempfile
from pathlib import Path

import torch
from peer import hand_over, read_floats


def declare_operators() -> torch.library.Library | None:
    """Declare torchvision's operators where its own library cannot be loaded.

    Wheels up to 0.28 are built for CUDA, so beside a CPU build of torch ``import torchvision``
    fails for lack of them. Later ones load anywhere, and what is declared twice aborts the process.

    Returns:
        What declares them, as long as it lives; None where torchvision does.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise SystemExit("torchvision is missing; see README.md")
    for library in Path(found.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(library)
        except OSError:
            continue
        return None
    declared = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return declared


OPERATORS = declare_operators()

from nncodec.nn import decode, encode  # noqa: E402


def main() -> None:
    """Encode, write, decode, hand over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--qp", type=int, nargs="+", required=True, help="quantisation parameters")
    parser.add_argument("--to", type=Path, required=True, help="folder for decoded checkpoints")
    arguments = parser.parse_args()
    floats = read_floats(arguments.checkpoint)
    for qp in arguments.qp:
        with tempfile.TemporaryDirectory() as folder:
            options = {"qp": qp, "use_dq": True, "results": folder, "verbose": False}
            path = Path(folder) / "stream.nnc"
            path.write_bytes(encode(floats, args=options))
            size_bytes = path.stat().st_size
            decoded = decode(bytearray(path.read_bytes()))
        hand_over(
            arguments.to,
            arguments.checkpoint,
            decoded,
            peer="NNCodec",
            setting=f"qp {qp}",
            size_bytes=size_bytes,
            packages=("nncodec", "torch", "numpy"),
        )


if __name__ == "__main__":
    main()
