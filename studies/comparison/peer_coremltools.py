"""coremltools palettization on a checkpoint, in an environment of its own (see README.md).

    PYTHONPATH=. python studies/comparison/peer_coremltools.py lenet300 CHECKPOINT.safetensors \
        --to FOLDER

The network becomes an ML program, its weights are palettized (a table of 2^bits entries a tensor),
and the package is saved. What is measured is what is in the package: it is loaded again, its
weights are decompressed and put back into the checkpoint's tensors. ``size_bytes`` is the weight
file alone, as other peers' files hold no graph either; ``package_bytes`` is the whole package.

Conversion folds BatchNorms into the convolutions before them, as it does by default; "norms kept"
rows switch that off.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.optimize.coreml import (
    OpPalettizerConfig,
    OptimizationConfig,
    decompress_weights,
    get_weights_metadata,
    palettize_weights,
)
from numpy.typing import NDArray
from peer import State, hand_over, read_floats
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from moeash.networks.loading.builtin import BUILTIN

SHAPES = {"lenet300": (1, 1, 28, 28), "lenet5": (1, 1, 28, 28), "resnet20": (1, 3, 32, 32)}
WEIGHT_THRESHOLD = 512
"""Smaller tensors stay float16: a palette would not pay."""


def convert(module: nn.Module, shape: tuple[int, ...], *, fold: bool) -> ct.models.MLModel:
    """Return the network as an ML program of float16 weights, the default."""
    pipeline = ct.PassPipeline.DEFAULT
    if not fold:
        pipeline.remove_passes({"common::fuse_conv_batchnorm"})
    return ct.convert(
        torch.jit.trace(module, torch.zeros(shape)),
        inputs=[ct.TensorType(name="x", shape=shape)],
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=pipeline,
        skip_model_load=True,
    )


def constants(program: ct.models.MLModel) -> list[NDArray[Any]]:
    """Return the float constants of an ML program, decompressed, in the program's order."""
    found = get_weights_metadata(decompress_weights(program), weight_threshold=0)
    values = [facts.val for facts in found.values()]
    return [v.astype(np.float32) for v in values if np.issubdtype(v.dtype, np.floating)]


def folded(module: nn.Module) -> State:
    """Return a state of the same function whose BatchNorms only add a bias."""
    state = {name: values.detach().clone() for name, values in module.state_dict().items()}
    modules = dict(module.named_modules())
    for name, conv in modules.items():
        norm = modules.get(name.replace("conv", "bn"))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            fused = fuse_conv_bn_eval(conv, norm)
            bn = name.replace("conv", "bn")
            state[f"{name}.weight"] = fused.weight
            state[f"{bn}.bias"] = fused.bias
            state[f"{bn}.weight"] = torch.ones_like(norm.weight)
            state[f"{bn}.running_mean"] = torch.zeros_like(norm.running_mean)
            state[f"{bn}.running_var"] = torch.full_like(norm.running_var, 1 - norm.eps)
    return {
        name: values.detach().numpy()
        for name, values in state.items()
        if values.is_floating_point()
    }


def homes(state: State, exact: list[NDArray[Any]]) -> list[str]:
    """Return which tensor of the state each constant of the unpalettized program is, by value."""
    found = []
    for values in exact:
        gaps = {
            name: float(np.abs(tensor - values).max() / np.abs(tensor).max())
            for name, tensor in state.items()
            if tensor.shape == values.shape
        }
        nearest = min(gaps, key=lambda name: gaps[name])
        assert gaps[nearest] < 0.01, f"{nearest} is nearest and {gaps[nearest]} away"
        found.append(nearest)
    assert {name for name, tensor in state.items() if tensor.ndim > 1} <= set(found)
    return found


def main() -> None:
    """Convert once, palettize in every way, hand over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", choices=SHAPES)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 3, 4, 6, 8])
    parser.add_argument("--to", type=Path, required=True, help="folder for decoded checkpoints")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    module = BUILTIN[arguments.network]().eval()
    floats = {k: torch.from_numpy(v) for k, v in read_floats(arguments.checkpoint).items()}
    module.load_state_dict(module.state_dict() | floats)
    state = folded(module)
    has_norms = any(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    for fold in (True, False) if has_norms else (True,):
        program = convert(module, SHAPES[arguments.network], fold=fold)
        # Decompressing folds BatchNorms that were kept, so this is where the constants go.
        places = homes(state, constants(program))
        for mode in ("kmeans", "uniform"):
            for bits in arguments.bits:
                config = OpPalettizerConfig(
                    mode=mode, nbits=bits, weight_threshold=WEIGHT_THRESHOLD
                )
                small = palettize_weights(program, OptimizationConfig(global_config=config))
                with tempfile.TemporaryDirectory() as folder:
                    package = Path(folder) / "network.mlpackage"
                    small.save(str(package))
                    sizes = {p.name: p.stat().st_size for p in package.rglob("*") if p.is_file()}
                    again = ct.models.MLModel(str(package), skip_model_load=True)
                    read = constants(again)
                hand_over(
                    arguments.to,
                    arguments.checkpoint,
                    state | dict(zip(places, read, strict=True)),
                    peer="coremltools",
                    setting=f"{mode} {bits} bit{'' if fold else ', norms kept'}",
                    size_bytes=sizes["weight.bin"],
                    package_bytes=sum(sizes.values()),
                    packages=("coremltools", "torch", "numpy"),
                )


if __name__ == "__main__":
    main()
