"""What the functions of the interface have in common."""

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moeash.compression import folding, probing, remeasuring
from moeash.compression.options import CodecOptions
from moeash.data.inputs import call, described
from moeash.data.unlabelled import Given, Unlabelled
from moeash.errors import InputError
from moeash.methods.base import Method
from moeash.networks.devices import device_of
from moeash.networks.norms import NORM_TYPES
from moeash.tracing.outputs import OutputOf, chosen
from moeash.tracing.watching import in_eval_mode


def method_table(method: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return ``[method]`` of a name or a mapping.

    Raises:
        InputError: it is neither.
    """
    if isinstance(method, str):
        return {"name": method}
    if not isinstance(method, Mapping):
        raise InputError(
            f"method is {method!r}, needed a name or a mapping as [method] in a spec has it"
        )
    return dict(method)


def overlaid(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested mappings with what ``over`` says in the place of what ``base`` does.

    Raises:
        InputError: ``over`` is no mapping.
    """
    if not isinstance(over, Mapping):
        raise InputError(f"spec is {over!r}, needed nested mappings as a spec's tables")
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(below, Mapping)
        merged[key] = overlaid(below, value) if both else value  # type: ignore[arg-type]
    return merged


ALL = sys.maxsize
"""Inputs taken where solutions are trained."""


def inputs_for(
    module: nn.Module,
    method: Method,
    given: Given | None,
    codec: CodecOptions,
    output: OutputOf | None,
    *,
    trained_by: str | None,
    measured: bool = False,
) -> Unlabelled | None:
    """Return the inputs there is a use for; say so where a method does without, or has no use.

    Args:
        module: the network.
        method: of the study.
        given: by a person.
        codec: how kept tensors are stored.
        output: names what counts of the network's output.
        trained_by: what trains solutions; None: nothing.
        measured: the network is measured on them.

    Raises:
        InputError: there is no use for them, the network does not take them, or a training lacks
            them.
    """
    if trained_by and given is None:
        raise InputError(
            f"{trained_by} needs inputs to train on; give calibration=, unlabelled inputs suffice"
        )
    if output is not None and given is None:
        raise InputError("output= names what counts of calibration runs; give calibration= as well")
    if given is not None:
        has_norms = any(isinstance(part, NORM_TYPES) for part in module.modules())
        at_most = max(
            method.calibration_images,
            folding.IMAGES if codec.norms == "folded" else 0,
            remeasuring.IMAGES if codec.norms == "remeasured" else 0,
            probing.IMAGES if codec.norms == "two_vectors" and has_norms else 0,
            probing.IMAGES if codec.kept != "float32" else 0,
            ALL if trained_by or measured else 0,
        )
        if not at_most:
            raise InputError(f"method {method.name} looks at no inputs; leave calibration out")
        inputs = Unlabelled(given, at_most=at_most, network=module)
        _refuse_misfits(module, inputs, output)
        return inputs
    if method.calibration_images:
        warnings.warn(
            f"method {method.name} has no calibration inputs and does not know what the network "
            "computes with; pass calibration=, unlabelled inputs suffice",
            stacklevel=4,
        )
    return None


@torch.no_grad()
def _refuse_misfits(module: nn.Module, inputs: Unlabelled, output: OutputOf | None) -> None:
    """Run one input, so that those a network does not take are refused before anything is done."""
    first, _ = next(inputs.batches(1))
    with in_eval_mode(module):
        try:
            returned = call(module, first.to(device_of(module)))
        except Exception as error:
            weights = (f"{n}: {described(p)}" for n, p in module.named_parameters() if p.ndim > 1)
            raise InputError(
                f"{type(module).__name__}, whose first weight is {next(weights, 'none')}, does not "
                f"take a calibration input of {described(first)}: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}; it takes {inputs.takes}"
            ) from error
    if output is not None:
        chosen(returned, output)
