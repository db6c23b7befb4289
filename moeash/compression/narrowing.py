"""Which kept tensors float16 does not suit, by what it does to the outputs.

float16 moves values by 2**-11 of their size, and the outputs almost always by as little. They move
further where large values cancel: a bias and the running mean behind it, say, both a thousand times
as large as what the layer's outputs spread.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from moeash.compression.probing import OutputProbe, groups
from moeash.core.codebook import KeptTensor
from moeash.core.kept import Keeping

HARMLESS = 0.02
"""How far float16 may move the outputs, relative to the largest of a batch. Those of the digits
network, both LeNets and ResNet-20 move by 2e-6 to 7e-4; sharing weights moves them further."""

NAMED = 3
"""Tensors that a note names, at most."""


def without_harmful(
    probe: OutputProbe, kept: Mapping[str, KeptTensor], keeping: Keeping
) -> tuple[Keeping, tuple[str, ...]]:
    """Return a way of keeping that narrows only tensors float16 suits, and a note on the others.

    Where all of them together move the outputs too far, each is narrowed alone, and those that move
    them furthest keep the precision of the network: as few as suffice.

    Args:
        probe: runs the float network.
        kept: its kept tensors by name.
        keeping: wanted.
    """
    wide = tuple(replace(keeping, precision="float32").stored(kept).values())

    def moved(exact: tuple[str, ...]) -> float:
        tried = replace(keeping, exact=(*keeping.exact, *exact))
        return probe.moved(wide, tried.stored(kept).values())

    far = moved(())
    if far <= HARMLESS:
        return keeping, ()
    narrow = {
        name: tensor
        for name, tensor in keeping.stored(kept).items()
        if tensor.values.dtype == np.float16
    }
    alone = {
        group: moved(tuple(name for name in narrow if name not in group))
        for group in groups(narrow)
    }
    exact: tuple[str, ...] = ()
    for group in sorted(alone, key=lambda group: -alone[group]):
        exact += group
        if moved(exact) <= HARMLESS:
            break
    listed = ", ".join(exact[:NAMED])
    if len(exact) > NAMED:
        listed += f" and {len(exact) - NAMED} more"
    note = (
        f"{listed} keep{'s' if len(exact) == 1 else ''} float32: with float16 the outputs move by "
        f"{far:.2g} of the largest"
    )
    return replace(keeping, exact=(*keeping.exact, *exact)), (note,)
