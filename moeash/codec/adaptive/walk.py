"""The kernel's caller: one walk over the tensors of a stream, with what lives for one of them.

What is modelled is specified in :mod:`moeash.codec.adaptive.coder`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeash.codec.adaptive import _rows
from moeash.codec.adaptive.model import Model, tables
from moeash.core.trellis import Trellis

Shape = tuple[int, ...]

WORST_BYTES = 64
"""No weight takes more: 9 decisions of at most 11.5 bits, 31 of 7, 33 of 1."""


@dataclass(frozen=True)
class Geometry:
    """A tensor as the coder walks it: rows of input channels of kernel taps."""

    rows: int
    channels: int
    taps: int
    tap_width: int

    @classmethod
    def of(cls, shape: Shape) -> "Geometry":
        """Return the geometry of a shape; a flat tensor is one row."""
        if len(shape) < 2:
            return cls(1, math.prod(shape), 1, 1)
        return cls(shape[0], shape[1], math.prod(shape[2:]), shape[-1] if len(shape) > 2 else 1)

    @property
    def row_size(self) -> int:
        """Weights per row."""
        return self.channels * self.taps

    @property
    def pad(self) -> int:
        """Zeros before the first weight, so that every neighbour exists."""
        return self.row_size + 2


def work_bytes(shape: Shape) -> int:
    """Return the most bytes that decoding one tensor takes besides its indices."""
    geometry = Geometry.of(shape)
    # Values and, later, magnitudes or levels; four statistics, signs and the state of a column.
    return 4 * (geometry.pad + 2 * math.prod(shape)) + 24 * (geometry.row_size + 2)


_NOTHING = np.empty(0, dtype=np.uint8)
INDEPENDENT = Trellis(np.zeros((1, 2), dtype=np.uint8), np.zeros(1, dtype=np.uint8))
"""A path of one state in whose only half levels are values."""


class Walk:
    """One walk over all tensors, encoding or, with a stream, decoding."""

    def __init__(
        self, n_entries: int, zero: int, shift: int, stream: NDArray[np.uint8] | None
    ) -> None:
        self.decoding = stream is not None
        self.stream = _NOTHING if stream is None else stream
        self.output = _NOTHING if self.decoding else np.empty(1 << 12, dtype=np.uint8)
        self.limits = zero, n_entries - 1 - zero
        self.shift = shift
        self.model = Model.new()
        self.state = np.array([(1 << 64) - 1, 0, 0], dtype=np.uint64)
        self.row_logs = np.zeros(1, dtype=np.int32)
        self.used = False

    def _rows_at_once(self, geometry: Geometry) -> int:
        if self.decoding:
            return geometry.rows
        worst = geometry.row_size * WORST_BYTES
        return max(1, (1 << 16) // worst)

    def tensor(self, geometry: Geometry, values: NDArray[np.int32], path: Trellis) -> bool:
        """Code one tensor and return whether the stream can be its own.

        Args:
            geometry: its geometry, at least one weight.
            values: ``(pad + n,)`` int32, index minus zero or level after ``pad`` zeros; read or
                written.
            path: the trellis whose levels they are, or :data:`INDEPENDENT`.
        """
        self.used = True
        self.model.start_tensor()
        model, table, row_size = self.model, tables(), geometry.row_size
        mean = int(model.tensor_mean[0])
        column_mean = np.full(row_size + 2, mean, dtype=np.int32)
        column_sign = np.zeros(row_size, dtype=np.int32)
        column_drift = np.zeros(row_size + 2, dtype=np.int32)
        channel_mean = np.full(geometry.channels, mean, dtype=np.int32)
        channel_prior = self._channel_prior(geometry)
        states = np.zeros(row_size, dtype=np.uint8)
        transitions = path.transitions.ravel()
        step = self._rows_at_once(geometry)
        for first in range(0, geometry.rows, step):
            last = min(first + step, geometry.rows)
            if not self.decoding:
                self._reserve((last - first) * row_size * WORST_BYTES)
            possible = _rows.run_rows(
                self.decoding,
                self.stream,
                self.output,
                self.state,
                values,
                geometry.pad,
                first,
                last,
                geometry.channels,
                geometry.taps,
                geometry.tap_width,
                *self.limits,
                self.shift,
                table.stretch,
                table.squash,
                table.logs,
                table.learning,
                table.reciprocal,
                table.counting,
                model.slots,
                model.weights,
                model.refinements,
                model.steps,
                model.escapes,
                model.places,
                column_mean,
                column_sign,
                column_drift,
                channel_mean,
                states,
                transitions,
                path.halves,
                channel_prior,
                model.tensor_mean,
            )
            if not possible:
                return False
        self._remember_rows(values[geometry.pad :].reshape(geometry.rows, row_size))
        return True

    def _channel_prior(self, geometry: Geometry) -> NDArray[np.int32]:
        """Return ``(channels,)`` int32: what the last tensor's rows say about these channels."""
        rows = self.row_logs.size
        if rows < 2 or geometry.channels % rows:
            return np.zeros(geometry.channels, dtype=np.int32)
        return np.repeat(self.row_logs, geometry.channels // rows)

    def _remember_rows(self, values: NDArray[np.int32]) -> None:
        rows, row_size = values.shape
        magnitudes = np.abs(values)
        np.minimum(magnitudes, 255 << self.shift, out=magnitudes)
        totals = magnitudes.sum(axis=1, dtype=np.int64) >> self.shift
        means = np.append((totals << 16) // row_size, int(self.model.tensor_mean[0]))
        slot = np.where(means < 1 << 18, means >> 6, 4096 + (means >> 12))
        logs = tables().logs[slot].astype(np.int32)
        self.row_logs = np.clip(logs[:rows] - logs[rows], -2047, 2047)

    def _reserve(self, more: int) -> None:
        needed = int(self.state[2]) + more
        if needed > self.output.size:
            grown = np.empty(max(needed, 2 * self.output.size), dtype=np.uint8)
            grown[: self.output.size] = self.output
            self.output = grown

    def tail_bytes(self) -> int:
        """Return the fewest bytes that name a number in the interval, whatever its lower end."""
        return next(k for k in range(1, 9) if 1 << (64 - 8 * k) <= int(self.state[0]))
