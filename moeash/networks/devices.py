"""Devices by their names."""

import torch

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
