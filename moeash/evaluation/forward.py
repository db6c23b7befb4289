"""Forward passes of images: where they run, in which arithmetic, and how images lie in memory."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from moeash.errors import EvaluationError, InputError
from moeash.evaluation.options import Precision
from moeash.networks.layouts import channels_last, takes_channels_last
from moeash.tracing.outputs import chosen


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

        Args:
            x: a few images.
        """
        if torch.device(self.device).type != "cpu" or x.ndim != 4 or x.shape[1] == 1:
            return self

        def outputs(last: bool) -> Tensor:
            return replace(self, channels_last=last)(x)

        last = takes_channels_last(self.module, outputs, bfloat16=self.precision == "bf16")
        return replace(self, channels_last=last)
