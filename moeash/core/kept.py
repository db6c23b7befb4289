"""How kept parameters are stored: BatchNorms as two vectors, and a precision for each tensor.

A BatchNorm in eval mode is ``y = a x + b`` with ``a = weight / sqrt(variance + eps)`` and
``b = bias - mean a``: two vectors, not four. They are stored in the places of weight and bias; the
mean becomes 0 and the variance the constant at which ``sqrt(variance + eps)`` is exactly 1. Names
and shapes stay, so the decoded tensors fit the unchanged network, and constants cost the file next
to nothing.

Of what remains, float16 is harmless almost always; where a study has measured that coarser is
harmless too, a tensor is rounded to multiples of a power of two and its integers are stored.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from moeash.core.codebook import KeptTensor, SharedWeights
from moeash.errors import InputError

KeptPrecision = Literal["float32", "float16"]
"""How kept floating parameters are stored unless their step says otherwise."""

EXPONENTS = range(-126, 101)
"""Exponents of steps: with integers of 16 bits every multiple is a normal float32, or 0."""

STEPPED_DTYPES = ("float32", "bfloat16")
"""Dtypes in the network of tensors that may be stored in steps."""


@dataclass(frozen=True)
class Norm:
    """A BatchNorm by the ``state_dict`` keys of its vectors, which nothing else uses."""

    weight: str
    bias: str
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True)
class Keeping:
    """How a study stores the kept parameters of all its candidates.

    Attributes:
        precision: of floating tensors without a step.
        norms: BatchNorms stored as two vectors.
        exponents: by name, tensors rounded to multiples of ``2**exponent``; half goes to even.
        exact: names of tensors that keep the precision of the network, such as the frequencies of
            rotary positions: a relative error there is not one of the outputs.
    """

    precision: KeptPrecision = "float16"
    norms: tuple[Norm, ...] = ()
    exponents: Mapping[str, int] = field(default_factory=dict)
    exact: tuple[str, ...] = ()

    def apply(self, shared: SharedWeights) -> SharedWeights:
        """Return shared weights with their kept tensors as the file stores them.

        Args:
            shared: as a method made them, kept tensors in the precision of the network.
        """
        stored = self.stored({tensor.name: tensor for tensor in shared.kept})
        tensors = tuple(stored.get(tensor.name, tensor) for tensor in shared.tensors)
        return replace(shared, tensors=tensors)

    def stored(self, kept: Mapping[str, KeptTensor]) -> dict[str, KeptTensor]:
        """Return kept tensors by name as the file stores them.

        A norm's ``b`` is computed from the rounded ``a``: what rounding ``a`` does to a channel is
        then centred on the channel's running mean.

        Args:
            kept: by name, in the precision of the network.
        """
        stored: dict[str, KeptTensor] = {}
        for norm in self.norms:
            slope = _slope(norm, kept)
            if slope is None:
                continue
            rounded = self._store(_with(kept[norm.weight], slope))
            stored[norm.weight] = rounded
            mean = kept[norm.mean].values.astype(np.float64)
            shift = kept[norm.bias].values - mean * rounded.decoded()
            stored[norm.bias] = self._store(_with(kept[norm.bias], shift))
            # Not narrowed: float16 does not hold the variance, and constants cost next to nothing.
            variance = np.full(mean.shape, unit_variance(norm.eps, slope.dtype))
            stored[norm.mean] = _with(kept[norm.mean], np.zeros_like(mean))
            stored[norm.variance] = _with(kept[norm.variance], variance)
        for name, tensor in kept.items():
            if name not in stored:
                stored[name] = self._store(tensor)
        return stored

    def _store(self, tensor: KeptTensor) -> KeptTensor:
        if tensor.name in self.exact:
            return tensor
        exponent = self.exponents.get(tensor.name)
        stepped = None if exponent is None else in_steps(tensor, exponent)
        return narrowed(tensor, self.precision) if stepped is None else stepped

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        norms = [[n.weight, n.bias, n.mean, n.variance, n.eps] for n in self.norms]
        return {
            "precision": self.precision,
            "norms": norms,
            "exponents": dict(self.exponents),
            "exact": list(self.exact),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Keeping":
        """Return what :meth:`as_dict` described."""
        norms = tuple(Norm(*values) for values in plain["norms"])
        exact = tuple(plain.get("exact", ()))
        return cls(plain["precision"], norms, dict(plain["exponents"]), exact)


def unit_variance(eps: float, dtype: "np.dtype[Any]") -> np.floating[Any] | None:
    """Return the variance at which ``variance + eps`` rounds to exactly 1, if there is one.

    Sums in ``dtype`` and in float64 are both what networks compute; the square root of either is
    exactly 1 in ``dtype``. There is none when eps is above 1.
    """
    variance: np.floating[Any] = dtype.type(1 - eps)
    in_dtype = variance + dtype.type(eps)
    in_double = dtype.type(np.sqrt(np.float64(variance) + eps))
    return variance if variance >= 0 and in_dtype == 1 and in_double == 1 else None


def _slope(norm: Norm, tensors: Mapping[str, KeptTensor]) -> NDArray[np.floating[Any]] | None:
    """Return ``a`` in the network's precision; None where a norm has to stay as it is."""
    weight, variance = tensors[norm.weight].values, tensors[norm.variance].values
    if unit_variance(norm.eps, weight.dtype) is None:
        return None
    total = variance.astype(np.float64) + norm.eps
    if not (total > 0).all():
        return None
    with np.errstate(over="ignore"):
        slope = (weight / np.sqrt(total)).astype(weight.dtype)
        shift = tensors[norm.bias].values - tensors[norm.mean].values * slope
    return slope if np.isfinite(slope).all() and np.isfinite(shift).all() else None


def _with(tensor: KeptTensor, values: NDArray[Any]) -> KeptTensor:
    return replace(tensor, values=values.astype(tensor.values.dtype))


def narrowed(tensor: KeptTensor, precision: KeptPrecision) -> KeptTensor:
    """Return a kept tensor in a precision.

    float16 is used only where it is harmless: a tensor with a value that float16 cannot hold
    within its relative precision of 2**-11 (overflow, or below its normal range) stays float32.
    Integers, float64 and what is narrow already stay as they are.
    """
    if precision == "float16" and tensor.values.dtype == np.float32 and fits_float16(tensor.values):
        return replace(tensor, values=tensor.values.astype(np.float16))
    return tensor


def fits_float16(values: NDArray[np.float32]) -> bool:
    """Tell whether float16 holds every value within a relative error of 2**-11."""
    magnitude = np.abs(values[values != 0])
    info = np.finfo(np.float16)
    return bool(
        np.isfinite(values).all()
        and (magnitude.size == 0 or (magnitude.max() <= info.max and magnitude.min() >= info.tiny))
    )


def in_steps(tensor: KeptTensor, exponent: int) -> KeptTensor | None:
    """Return a kept tensor rounded to multiples of ``2**exponent``, half to even.

    Integers are stored in 8 bits where they fit, else in 16. None when they do not fit either, or
    the tensor cannot be stored in steps: it is no float32, or holds NaN or infinity.

    Raises:
        InputError: the exponent is not one of :data:`EXPONENTS`.
    """
    if exponent not in EXPONENTS:
        raise InputError(
            f"{tensor.name!r} has steps of 2**{exponent}; exponents go from {EXPONENTS[0]} to "
            f"{EXPONENTS[-1]}"
        )
    if tensor.dtype not in STEPPED_DTYPES or not np.isfinite(tensor.values).all():
        return None
    counts = np.asarray(np.rint(np.ldexp(tensor.values.astype(np.float64), -exponent)))
    most = float(np.abs(counts).max(initial=0))
    for dtype in (np.int8, np.int16):
        if most <= np.iinfo(dtype).max:
            return replace(tensor, values=counts.astype(dtype), exponent=exponent)
    return None
