"""Devices by their names."""

import torch

from moeash.errors import InputError


def usable_device(device: torch.device | str) -> torch.device:
    """Return a device that tensors can be made on.

    Raises:
        InputError: there is none of that name here.
    """
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as exc:
        reason = str(exc).splitlines()[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {reason}") from exc
    return found
