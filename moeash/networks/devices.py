"""Devices by their names."""

import warnings

import torch
from torch import nn

from moeash.errors import InputError


def obstacle(device: torch.device | str) -> Exception | None:
    """Return why no tensor can be made on a device; None: they can."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError) as error:
        return error
    return None


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device that tensors can be made on.

    Raises:
        InputError: there is none of that name here.
    """
    error = obstacle(device)
    if error is not None:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {reason}") from error
    return torch.device(device)


def device_of(module: nn.Module) -> torch.device:
    """Return where a module's parameters are; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def name_of(device: torch.device | str) -> str:
    """Return a device's name, of a GPU with its model: ``cuda (NVIDIA H200)``."""
    there = torch.device(device)
    return f"{there} ({torch.cuda.get_device_name(there)})" if there.type == "cuda" else str(there)


def wake(device: torch.device | str) -> None:
    """Have derivatives taken once on a device, after which torch has nothing to remark on it.

    The first product of matrices in the thread of a GPU's derivatives finds no context there, makes
    one, and warns of it, whoever asked for it.
    """
    there = torch.device(device)
    if there.type != "cuda":
        return
    with warnings.catch_warnings(), torch.enable_grad(), torch.inference_mode(False):
        warnings.simplefilter("ignore")
        one = torch.ones(1, 1, device=there, requires_grad=True)
        torch.autograd.grad((one @ one).sum(), one)
