"""Forward passes of images: where they run, in which arithmetic, and how images lie in memory."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from moeash.errors import EvaluationError, InputError
from moeash.evaluation.options import Precision
from moeash.networks.layouts import channels_last, has_convolutions
from moeash.tracing.outputs import chosen

ROUNDING: dict[Precision, float] = {"float32": 1e-4, "bf16": 0.03}
"""How far outputs may differ between layouts, relative to the largest one: sums are taken in
another order, and deep networks carry that on."""


@dataclass(frozen=True)
class Forward:
    """Passes of one network, all alike, so that their outputs compare.

    Attributes:
        module: the network.
        device: torch device of it.
        precision: arithmetic.
        channels_last: whether images are given with their channels beside each other.
    """

    module: nn.Module
    device: str
    precision: Precision = "float32"
    channels_last: bool = False

    def __call__(self, x: Tensor) -> Tensor:
        """Return the class scores of images ``(n, c, h, w)``.

        Raises:
            EvaluationError: the network returns none.
        """
        x = x.to(self.device)
        if self.channels_last:
            x = channels_last(x)
        bfloat16 = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, bfloat16):
            returned = self.module(x)
        try:
            outputs = chosen(returned)
        except InputError as error:
            raise EvaluationError(f"class scores are needed: {error}") from error
        return outputs.float() if bfloat16 else outputs

    def first(self, x: Tensor) -> Tensor:
        """Forward the float network, so that images it cannot take are reported as just that.

        Raises:
            EvaluationError: it cannot take them.
        """
        try:
            return self(x)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise EvaluationError(
                f"{type(self.module).__name__} cannot take images of shape {tuple(x.shape)}: "
                f"{' '.join(str(error).split())}; the network or the data is the wrong one"
            ) from error

    def fastest(self, x: Tensor) -> "Forward":
        """Return passes with channels last where that is faster and the outputs stay.

        Nothing is timed, so every worker of a study would decide alike.

        Args:
            x: a few images.
        """
        on_cpu = torch.device(self.device).type == "cpu"
        if not (on_cpu and x.ndim == 4 and x.shape[1] > 1 and has_convolutions(self.module)):
            return self
        other = replace(self, channels_last=True)
        try:
            outputs, expected = other(x), self(x)
        except Exception:  # whatever a network raises that asks for the other layout
            return self
        if outputs.shape != expected.shape:
            return self
        rounding = ROUNDING[self.precision] * float(expected.abs().max())
        return other if bool((outputs - expected).abs().max() <= rounding) else self
