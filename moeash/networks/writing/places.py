"""Where a module's tensors lie, so that nobody writes through a view to where they no longer are.

Weights are written through views of the module's own memory. Whoever runs the module may replace
that memory meanwhile: ``m.to(memory_format=...)``, ``p.data = ...``, ``m.to(device)``,
``m.share_memory()``, ``m.half()``. A view then shows what nobody reads any more, or memory that has
been freed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moeash.errors import EvaluationError, InputError
from moeash.networks import memory

Place = tuple[int, torch.dtype, torch.device, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Places:
    """Where the tensors of a module were when this was made."""

    module: nn.Module
    places: dict[str, Place]

    @classmethod
    def of(cls, module: nn.Module) -> "Places":
        """Record where a module's tensors are now."""
        tensors = memory.own_tensors(module)
        return cls(module, {name: _place(tensor) for name, tensor in tensors.items()})

    def moved(self) -> list[str]:
        """Return the names of tensors that are elsewhere, or laid out or ordered anew, or gone."""
        try:
            tensors = memory.own_tensors(self.module)
        except InputError:  # by now the state holds something else than the module's own tensors
            return list(self.places)
        now = {name: _place(tensor) for name, tensor in tensors.items()}
        moved = [name for name, place in self.places.items() if now.get(name) != place]
        moved += [name for name in now if name not in self.places]
        pairs = zip(now, self.places, strict=False)
        return moved or [name for name, before in pairs if name != before]

    def check(self, who: str) -> None:
        """Refuse to go on with tensors that have moved.

        Args:
            who: may have moved them, e.g. ``evaluate(module)``.

        Raises:
            EvaluationError: names one of them.
        """
        moved = self.moved()
        if moved:
            others = f" and {len(moved) - 1} more" if len(moved) > 1 else ""
            raise EvaluationError(
                f"{who} has moved {moved[0]!r}{others} to other memory, dtype, device or strides, "
                "but candidates' weights are written where they were; leave the module as it is: "
                "move it before the search, or move a copy (copy.deepcopy(module))"
            )


def _place(tensor: Tensor) -> Place:
    pointer = tensor.data_ptr() if tensor.numel() else 0
    return pointer, tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride()
