"""Whether what a file holds fits a network: everything that does not, in one error."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from moeash.errors import CheckpointError
from moeash.networks import memory

SHOWN = 3
"""Names per kind of mismatch in a message."""


class Outline(NamedTuple):
    """What is known of a tensor before it is decoded.

    Attributes:
        shape: its shape.
        dtype: name of its dtype.
        kind: of its dtype: ``"float"``, ``"complex"`` or ``"integer"``, booleans included.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: Literal["float", "complex", "integer"]


def outline_of(tensor: Tensor) -> Outline:
    """Return the outline of a tensor."""
    kind: Literal["float", "complex", "integer"] = "integer"
    if tensor.is_floating_point():
        kind = "float"
    elif tensor.is_complex():
        kind = "complex"
    return Outline(tuple(tensor.shape), str(tensor.dtype), kind)


class Own(NamedTuple):
    """The tensors of a network.

    Attributes:
        kind: the network's class, for messages.
        tensors: by ``state_dict`` key, tied ones under each name, not detached.
        first: for every name whose memory an earlier name also is, that earlier name.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    first: Mapping[str, str]

    @classmethod
    def of(cls, module: nn.Module) -> "Own":
        """Return the tensors of a module.

        Raises:
            InputError: as :func:`moeash.networks.memory.own_tensors` and its ``ties``.
        """
        tensors = memory.own_tensors(module)
        return cls(type(module).__name__, tensors, memory.ties(tensors))


def check_fit(
    network: Own, given: Mapping[str, Outline], source: str, same: Callable[[str, str], bool]
) -> None:
    """Check that tensors fit a network.

    Tied parameters need one of their names. ``num_batches_tracked`` may be missing.

    Args:
        network: its own tensors.
        given: outlines by ``state_dict`` key.
        source: what they are, for the message.
        same: whether two of the given tensors hold the same values, for those that are tied.

    Raises:
        CheckpointError: tensors are missing or left over, have another shape or kind of dtype, or
            differ though they are tied in the network.
    """
    own, first = network.tensors, network.first
    present = {first.get(name, name) for name in given if name in own}
    known = {name: outline for name, outline in given.items() if name in own}
    problems = [
        _counted(
            "missing",
            [
                name
                for name in own
                if first.get(name, name) not in present and not name.endswith("num_batches_tracked")
            ],
        ),
        _counted("unexpected", [name for name in given if name not in own]),
        _counted(
            "of another shape",
            [
                f"{name} {outline.shape} for {tuple(own[name].shape)}"
                for name, outline in known.items()
                if outline.shape != own[name].shape
            ],
        ),
        _counted(
            "of another kind",
            [
                f"{name} {outline.dtype} for {own[name].dtype}"
                for name, outline in known.items()
                if outline.kind != outline_of(own[name]).kind
            ],
        ),
        _counted("different though tied in the network", _torn(given, first, same)),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise CheckpointError(f"{source} does not fit {network.kind}: {'; '.join(found)}")


def _torn(
    given: Mapping[str, Outline], first: Mapping[str, str], same: Callable[[str, str], bool]
) -> list[str]:
    """Return names that are one memory in the network but hold different values."""
    by_memory: dict[str, str] = {}
    torn = []
    for name in given:
        other = by_memory.setdefault(first.get(name, name), name)
        if other != name and not same(other, name):
            torn.append(f"{name} and {other}")
    return torn


def _counted(kind: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}"
