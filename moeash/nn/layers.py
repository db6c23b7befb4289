"""Modules whose weights are indices, decoded when they are read.

A module that :func:`moeash.nn.compress_` converts stays the object it was, with its hooks and its
place in the network. Its class becomes a subclass made for it, as torch's own parametrizations do:
each parameter that is now indices is a property that decodes. So whatever reads ``layer.weight``,
the module's forward or other code, computes with the weights that the file holds.
"""

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moeash.errors import InputError
from moeash.nn.common import Common, Move, version
from moeash.nn.packing import Packing

NOT_TRAINABLE = (
    "the weights of this network are indices into a codebook, which no gradient reaches and nobody "
    "can write to; load the file into a dense network with moeash.load to train or change them"
)


class _Known(NamedTuple):
    """What was decoded last, for as long as somebody has it, and what it was decoded from.

    Attributes:
        read: what was returned: modules of attention read a weight again while they have it.
        held: the weight, where it is kept from one forward pass to the next.
        indices: what it was decoded from.
        codebook: likewise.
        versions: of all three, which share theirs with ``read``.
    """

    read: "weakref.ref[Tensor]"
    held: Tensor | None
    indices: Tensor
    codebook: Tensor
    versions: tuple[int, int, int]

    def weight(self, indices: Tensor, codebook: Tensor) -> Tensor | None:
        """Return the weight if it is still there, and still what these decode to."""
        weight = self.read()
        weight = self.held if weight is None else weight
        if weight is None or self.indices is not indices or self.codebook is not codebook:
            return None
        now = version(weight), version(indices), version(codebook)
        return weight if now == self.versions else None


class SmallModule(nn.Module):
    """A module some of whose parameters are indices and a codebook; see :func:`convert`."""

    _base: type[nn.Module]
    _packings: dict[str, Packing]
    _known: dict[str, _Known]
    _common: Common

    def _decode(self, name: str) -> Tensor:
        """Return the weight of that name."""
        packing = self._packings[name]
        indices, codebook = self._stored(name)
        if torch.compiler.is_compiling():
            return packing.weight(indices, codebook)
        self._mind_training()
        with torch.inference_mode(False), torch.no_grad():
            if hasattr(self, "_is_replica"):  # of DataParallel, which lives for one forward pass
                return _as_read(packing.weight(indices, codebook), packing)
            known = self._known.get(name)
            weight = None if known is None else known.weight(indices, codebook)
            if known is not None and weight is not None and weight is not known.held:
                return weight
            if known is None or weight is None:
                self._forget(name)
                weight = packing.weight(indices, codebook)
                held = weight if self._common.reserve(weight.nbytes) else None
            else:
                held = known.held
            read = _as_read(weight, packing)
            versions = version(read), version(indices), version(codebook)
            self._known[name] = _Known(weakref.ref(read), held, indices, codebook, versions)
            return read

    def _stored(self, name: str) -> tuple[Tensor, Tensor]:
        indices: Tensor = getattr(self, indices_name(name))
        codebook: Tensor = getattr(self, codebook_name(name))
        return indices, codebook

    def _mind_training(self) -> None:
        if self.training and torch.is_grad_enabled():
            self._common.warn_of_training()

    def _forget(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None and known.held is not None:
            self._common.release(known.held.nbytes)

    def _apply(self, fn: Move, recurse: bool = True) -> "SmallModule":
        names = [part(name) for name in self._packings for part in (indices_name, codebook_name)]
        before = {name: self._buffers[name] for name in names}
        moved = dict(before)
        self._buffers.update(dict.fromkeys(names))
        try:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            for name, tensor in before.items():
                assert tensor is not None
                moved[name] = self._common.move(tensor, fn)
        finally:
            self._buffers.update(moved)
        for name in self._packings:
            self._forget(name)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> "SmallModule":
        """Refuse to make the weights trainable.

        Raises:
            InputError: gradients are asked for.
        """
        if requires_grad:
            raise InputError(NOT_TRAINABLE)
        super().requires_grad_(False)
        return self

    def reset_parameters(self) -> None:
        """Refuse to draw weights anew.

        Raises:
            InputError: always.
        """
        raise InputError(NOT_TRAINABLE)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_packings", ()):
            raise InputError(f"{name!r} cannot be set: {NOT_TRAINABLE}")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self.__dict__.get("_packings", ()):
            raise InputError(f"{name!r} cannot be deleted: {NOT_TRAINABLE}")
        super().__delattr__(name)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = nn.Module.__getstate__(self)  # type: ignore[no-untyped-call]
        return _revive, (self._base, tuple(self._packings)), {**state, "_known": {}}


class SmallEmbedding(SmallModule):
    """An embedding that decodes the rows that are looked up, and no others."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the embeddings of ``input``, ``(*input.shape, embedding_dim)``."""
        packing = self._packings["weight"]
        rows = packing.rows(*self._stored("weight"), input)
        if torch.compiler.is_compiling():
            return rows
        self._mind_training()
        return rows.requires_grad_(packing.required_grad and torch.is_grad_enabled())


def _as_read(weight: Tensor, packing: Packing) -> Tensor:
    """Return a weight that asks for gradients as the parameter did which it stands for.

    torch multiplies batches another way by what asks for gradients, also where none are computed:
    without this some outputs would be a rounding off those of a dense network.
    """
    return weight.detach().requires_grad_(packing.required_grad)


def indices_name(name: str) -> str:
    """Return the buffer that holds a parameter's packed indices."""
    return f"{name}_indices"


def codebook_name(name: str) -> str:
    """Return the buffer that is a parameter's codebook, one tensor for all layers."""
    return f"{name}_codebook"


def convert(
    module: nn.Module,
    name: str,
    packing: Packing,
    indices: Tensor,
    codebook: Tensor,
    common: Common,
) -> None:
    """Turn a parameter of a module into indices, in place.

    Args:
        module: the module that owns it; its class becomes a subclass of :class:`SmallModule`.
        name: of the parameter in the module.
        packing: how its indices are packed.
        indices: packed.
        codebook: the one tensor of all layers of the network.
        common: of all layers of the network.
    """
    base, packings = type(module), {name: packing}
    if isinstance(module, SmallModule):
        base, packings = module._base, {**module._packings, **packings}
    del module._parameters[name]
    module.register_buffer(indices_name(name), indices)
    module.register_buffer(codebook_name(name), codebook)
    module.__dict__.update(_packings=packings, _known={}, _common=common)
    module.__class__ = class_of(base, tuple(packings))


_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[SmallModule]] = {}


def class_of(base: type[nn.Module], names: tuple[str, ...]) -> type[SmallModule]:
    """Return the one subclass of a module's class whose parameters of these names decode."""
    if (base, names) not in _CLASSES:
        _CLASSES[base, names] = _subclass(base, names)
    return _CLASSES[base, names]


def _subclass(base: type[nn.Module], names: tuple[str, ...]) -> type[SmallModule]:
    looks_up = base.forward is nn.Embedding.forward and "weight" in names
    kind = SmallEmbedding if looks_up else SmallModule
    own = {"__doc__": base.__doc__, "__module__": __name__, "_base": base}
    return type(f"Small{base.__name__}", (kind, base), {**own, **{n: _decoding(n) for n in names}})


def _decoding(name: str) -> property:
    def decode(self: SmallModule) -> Tensor:
        return self._decode(name)

    return property(decode)


def _revive(base: type[nn.Module], names: tuple[str, ...]) -> SmallModule:
    """Return a module without state, for pickle and deepcopy to fill."""
    kind = class_of(base, names)
    return kind.__new__(kind)
