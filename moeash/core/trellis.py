"""Trellises: which entries of a uniform codebook a weight may take, given the weights above it.

Dependent (trellis-coded) quantisation splits the multiples ``v`` of a step into two quantisers of
twice the step. A state says which of them the next weight uses; how it used it leads to the next
state. Written as *levels* n of the quantiser in force::

    half 0:  v = 2 n                  0, +-2, +-4, ...     values (multiples of the step)
    half 1:  v = 2 n - sign(n)        0, +-1, +-3, ...
    next state = transitions[state, n & 1]

A coder that knows the state codes n: half the alphabet, so the codebook can be twice as fine for
the same bits. What the finer step gains is distortion: with 8 states 0.7 to 1 dB on independent
normal weights at 1 to 3 bits, less below, of the 1.53 dB between scalar quantisation and the bound.

The path of a tensor runs down the rows (axis 0) of each column (all further axes), every column
beginning in state 0. Beginnings cost: of the gain, columns of 64 rows keep four fifths, columns of
16 rows half, columns of 8 rows little.

Source: Marcellin and Fischer (1990) for trellis-coded quantisation; the two quantisers with a zero
each and the path by parity are those of dependent quantisation in VVC (Schwarz et al., 2019). The
states follow from the parity-check polynomials of Ungerboeck's codes (1982); with 4 states the
table is VVC's.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from moeash.core import _levels
from moeash.errors import InputError

States = Literal[0, 4, 8, 16]
"""Numbers of states there are trellises of; 0 stands for none."""

N_STATES: tuple[int, ...] = get_args(States)

_CHECKS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4)}
"""Parity checks (h0, h1) of the best codes for amplitude modulation, Ungerboeck's Table I."""


@dataclass(frozen=True, eq=False)
class Trellis:
    """A trellis.

    Attributes:
        transitions: ``(n_states, 2)`` uint8, the next state by state and parity of the level.
        halves: ``(n_states,)`` uint8, the quantiser of each state.
    """

    transitions: NDArray[np.uint8]
    halves: NDArray[np.uint8]

    @property
    def n_states(self) -> int:
        """Number of states."""
        return self.halves.size


@lru_cache(maxsize=8)
def trellis(n_states: int) -> Trellis:
    """Return the trellis of 4, 8 or 16 states.

    The half z0 obeys ``sum over d of h0[d] z0[t - d] + h1[d] parity[t - d] = 0`` modulo 2. The
    state holds z0 in its highest bit, and below what is known of the next ones.

    Raises:
        InputError: there is no such trellis.
    """
    if n_states not in _CHECKS:
        raise InputError(f"there is no trellis of {n_states} states; there are {list(_CHECKS)}")
    h0, h1 = _CHECKS[n_states]
    transitions = np.zeros((n_states, 2), dtype=np.uint8)
    top = n_states >> 1
    reversed_h0, reversed_h1 = (_reversed(h, n_states) for h in (h0, h1))
    for state in range(n_states):
        half = int(state >= top)
        for parity in (0, 1):
            pending = (state << 1) & (n_states - 1)
            transitions[state, parity] = pending ^ half * reversed_h0 ^ parity * reversed_h1
    halves = (np.arange(n_states) >= top).astype(np.uint8)
    return Trellis(transitions, halves)


def _reversed(polynomial: int, n_states: int) -> int:
    """Return coefficients 1, 2, ... of a polynomial with that of 1 in the highest bit."""
    degree = n_states.bit_length() - 1
    return sum((polynomial >> d & 1) << (degree - d) for d in range(1, degree + 1))


def subsets(values: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], ...]:
    """Return where the values of the four subsets stand: by half, then by parity of the level.

    Args:
        values: ``(n,)`` multiples of the step, increasing. Zero is in half 0 and in half 1.
    """
    levels = (np.abs(values) + 1) >> 1
    return tuple(
        np.flatnonzero(((values & 1 == half) | (values == 0)) & (levels & 1 == parity))
        for half in (0, 1)
        for parity in (0, 1)
    )


def levels_of(
    values: NDArray[np.int32], shape: tuple[int, ...], n_states: int
) -> NDArray[np.int32] | None:
    """Return the levels of values that follow a trellis, ``None`` if they do not.

    Args:
        values: ``(n,)`` multiples of the step, C order of ``shape``.
        shape: shape of the tensor.
        n_states: states of the trellis.
    """
    found = trellis(n_states)
    _check_size(values, shape)
    levels = np.empty_like(values)
    follows = _levels.walk(
        False, values, levels, *matrix(shape), found.transitions.ravel(), found.halves
    )
    return levels if follows else None


def values_of(
    levels: NDArray[np.int32], shape: tuple[int, ...], n_states: int
) -> NDArray[np.int32]:
    """Return the values of levels: the inverse of :func:`levels_of`."""
    found = trellis(n_states)
    _check_size(levels, shape)
    values = np.empty_like(levels)
    _levels.walk(True, levels, values, *matrix(shape), found.transitions.ravel(), found.halves)
    return values


def _check_size(values: NDArray[np.int32], shape: tuple[int, ...]) -> None:
    """Refuse what the kernel would read past the end of."""
    if values.size != math.prod(shape):
        raise InputError(f"got {values.size} values for a tensor of shape {shape}")


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return rows and columns of a tensor as the paths see it; a flat tensor is one row."""
    if len(shape) < 2:
        return 1, math.prod(shape)
    return shape[0], math.prod(shape[1:])


def followed(values: NDArray[np.int32], shape: tuple[int, ...]) -> int:
    """Return the states of the trellis the values follow and use; 0 when there is none.

    Values that are all even multiples follow none: they would not know which one.
    """
    if not (values & 1).any():
        return 0
    for n_states in _CHECKS:
        if levels_of(values, shape, n_states) is not None:
            return n_states
    return 0
