"""A network's weights become indices and one codebook, as a file has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moeash.codec.container import read
from moeash.core.codebook import SharedWeights, array_dtype
from moeash.errors import InputError
from moeash.files import as_path
from moeash.names import contained
from moeash.networks.devices import usable_device
from moeash.networks.loading.weights import Fitted, fit_weights
from moeash.networks.writing.decoding import decode_into
from moeash.nn.common import Common
from moeash.nn.layers import SmallModule, convert
from moeash.nn.packing import BITS, Packing, pack
from moeash.nn.planning import Place, plan
from moeash.options.arguments import checked


@dataclass(frozen=True)
class Report:
    """What :func:`compress_` did with the tensors that a file shares.

    Attributes:
        bits: of an index, by name of each tensor that is indices now; tied ones under each name.
        dense: why the others are decoded once and stay as they are, by name.
    """

    bits: dict[str, int]
    dense: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.bits)} tensors are indices, {len(self.dense)} shared ones are dense"]
        return "\n".join([*lines, *(f"{name}: {why}" for name, why in self.dense.items())])


@contained()
@checked("module", "bits", "also", "resident_bytes", "max_bytes")
def compress_(
    module: nn.Module,
    source: str | Path | SharedWeights,
    *,
    device: torch.device | str | None = None,
    bits: int | None = None,
    also: Sequence[type[nn.Module]] = (),
    resident_bytes: int = 0,
    max_bytes: int | None = None,
) -> Report:
    """Load a ``.moeash`` file into a network that keeps its weights as indices, in place.

    Shared tensors of linear, convolution, embedding and attention layers become packed indices, one
    codebook in memory for all of them, and are decoded whenever they are read; an embedding decodes
    the rows that are looked up. Everything else is loaded as :func:`moeash.load` does. The outputs
    are those of the dense network that ``moeash.load`` gives, on the CPU to the bit.

    The weights are not parameters any more: they get no gradient, and setting one is refused. What
    is read as ``layer.weight`` is a decoded copy.

    Args:
        module: the network, as for :func:`moeash.load`; wrapped or not.
        source: a file, or what it holds.
        device: where the network goes; default: it stays where it is.
        bits: of an index: 4, 6, 8 or 16. Default: 4, 8 or 16, the fewest that hold a codebook's
            entries. 6 takes less memory than 8 and more time.
        also: further module types, your own ones, that read their parameters as attributes
            (``self.weight``) and never by ``parameters()`` or ``state_dict()``.
        resident_bytes: most bytes of decoded weights that are kept from one forward pass to the
            next. The layers that run first are kept: a network runs its layers in the same order
            again, so that the least recently used one is always the one needed next.
        max_bytes: as :func:`moeash.codec.container.decode`.

    Returns:
        Which tensors are indices now, and why others are not.

    Raises:
        ContainerError: the file is not readable.
        CheckpointError: it does not fit the module, which is left as it was.
        InputError: an argument cannot be used; likewise.

    Example:
        >>> import tempfile
        >>> import moeash
        >>> import moeash.nn
        >>> import torch
        >>> path = tempfile.mkdtemp() + "/linear.moeash"
        >>> _ = moeash.compress(torch.nn.Linear(64, 32), path, candidate={"k": 4}, progress=False)
        >>> network = torch.nn.Linear(64, 32).eval()
        >>> moeash.nn.compress_(network, path).bits
        {'weight': 4}
        >>> moeash.nn.memory(network).indices_bytes, network(torch.ones(64)).shape
        (1024, torch.Size([32]))
    """
    _check(module, bits, resident_bytes)
    target = None if device is None else usable_device(device)
    if isinstance(source, SharedWeights):
        shared, title = source, "the shared weights"
    else:
        shared, title = read(source, max_bytes=max_bytes).shared, repr(str(as_path(source)))
    fitted = fit_weights(module, shared, title)
    small, dense = plan(module, shared, fitted, bits, tuple(also))
    for name, stored in fitted.stored.items():
        if name not in small:
            decode_into(fitted.network.tensors[name].detach(), shared, stored)
    _convert_all(shared, fitted, small, Common(resident_bytes))
    if target is not None:
        module.to(target)
    return Report({name: place.bits for name, place in small.items()}, dense)


def _check(module: nn.Module, bits: int | None, resident_bytes: int) -> None:
    if bits is not None and bits not in BITS:
        raise InputError(f"bits is {bits!r}; needed {', '.join(map(str, BITS))}, or None")
    if resident_bytes < 0:
        raise InputError(f"resident_bytes is {resident_bytes}; needed 0 or more")
    if any(isinstance(child, SmallModule) for child in module.modules()):
        raise InputError(
            f"the weights of this {type(module).__name__} are indices already; make the network "
            "anew to load another file, or use load_state_dict"
        )


def _convert_all(
    shared: SharedWeights, fitted: Fitted, small: Mapping[str, Place], common: Common
) -> None:
    """Turn parameters into indices, one tensor of them for each stored one, and one codebook."""
    codebooks: dict[tuple[object, ...], Tensor] = {}
    packed: dict[tuple[object, ...], Tensor] = {}
    done: set[tuple[int, str]] = set()
    for name, (owner, own_name, stored, bits) in small.items():
        if (id(owner), own_name) in done:  # a module that the network holds twice
            continue
        done.add((id(owner), own_name))
        parameter = fitted.network.tensors[name]
        device, dtype = parameter.device, parameter.dtype
        carried = array_dtype(stored.dtype)
        book = stored.codebook, carried, dtype, device
        if book not in codebooks:
            entries = shared.codebooks[stored.codebook].entries.astype(carried)
            codebooks[book] = torch.tensor(entries).to(dtype).to(device)
        if (stored.name, device) not in packed:
            packed[stored.name, device] = pack(stored.indices, bits).to(device)
        stride = None if parameter.is_contiguous() else parameter.stride()
        packing = Packing(stored.shape, bits, stride, parameter.requires_grad)
        convert(owner, own_name, packing, packed[stored.name, device], codebooks[book], common)
