"""What a compressed network's outputs should be: those of the float network, or the labels."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from moeash.core.codebook import SharedWeights
from moeash.data.inputs import Batch, Inputs
from moeash.errors import InputError
from moeash.methods.training.norms import in_training_mode
from moeash.methods.training.session import Seen, Session
from moeash.networks.layouts import channels_last, takes_channels_last
from moeash.networks.network import Network
from moeash.tracing.outputs import OutputOf, chosen, in_rows

UNIT_FROM = 64
"""Inputs on which the variance of single values is measured."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Outputs:
    """A module run with tensors of one's own; its own stay untouched.

    Attributes:
        module: in eval mode.
        device: of the module and the tensors.
        output: names the tensor that counts.
        bfloat16: whether to run in bfloat16 where torch deems it safe.
        channels_last: whether images come with their channels beside each other in memory.
        norms: BatchNorms that compute with the statistics of the batch, and gather them in their
            running ones.
    """

    module: nn.Module
    device: str
    output: OutputOf | None = None
    bfloat16: bool = False
    channels_last: bool = False
    norms: tuple[nn.Module, ...] = ()

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Batch) -> Tensor:
        """Return the scores, ``(any, classes)``, or single values, ``(any, 1)``, float32."""
        args, kwargs = (
            (inputs.args, inputs.kwargs) if isinstance(inputs, Inputs) else ((inputs,), {})
        )
        if self.channels_last:
            args = tuple(map(channels_last, args))
        kind = torch.device(self.device).type
        autocast = torch.autocast(kind, dtype=torch.bfloat16, enabled=self.bfloat16)
        with autocast, in_training_mode(self.norms):
            returned = functional_call(self.module, dict(tensors), args, kwargs)
        return in_rows(chosen(returned, self.output)).float()


def outputs_of(network: Network, session: Session) -> Outputs:
    """Return a network's outputs as a session computes them.

    Convolutions in bfloat16 take a quarter less time where channels lie beside each other in
    memory. A network that asks for the other layout (``view`` of a feature map) is given that.
    """
    bfloat16 = session.options.arithmetic == "bf16"
    outputs = Outputs(network.module, session.device, network.output, bfloat16)
    if not bfloat16:
        return outputs
    inputs, _ = next(session.images.batches(2))
    few = inputs.to(session.device)

    def of_few(last: bool) -> Tensor:
        return replace(outputs, channels_last=last)({}, few)

    with torch.no_grad():
        last = takes_channels_last(network.module, of_few, bfloat16=True)
    return replace(outputs, channels_last=last)


def float_tensors(network: Network, device: str) -> dict[str, Tensor]:
    """Return the float network's tensors by name, on a device; tied ones under their first name."""
    tensors = {}
    for parameter in network.state:
        if parameter.values is not None:
            tensor = torch.tensor(parameter.values, device=device)
            tensors[parameter.name] = tensor.to(DTYPES.get(parameter.dtype, tensor.dtype))
    return tensors


def decoded_tensors(shared: SharedWeights, device: str) -> dict[str, Tensor]:
    """Return the shared tensors of a solution by name, as they are decoded, on a device."""
    return {
        tensor.name: torch.tensor(shared.values(tensor), device=device).to(
            DTYPES.get(tensor.dtype, torch.float32)
        )
        for tensor in shared.shared
    }


@dataclass(frozen=True, eq=False)
class Lesson:
    """What outputs are compared with.

    Attributes:
        outputs: runs the float network.
        teacher: its tensors.
        labels: weight of the labels, 0 to 1.
        temperature: divides scores before the softmax of the float network's part, whose loss is
            multiplied by its square, so that gradients stay of one size (Hinton et al., 2015,
            section 2).
        unit: in which squared distances of single values are counted.
    """

    outputs: Outputs
    teacher: Mapping[str, Tensor]
    labels: float = 0.0
    temperature: float = 1.0
    unit: float = 1.0

    def loss(self, scores: Tensor, seen: Seen) -> Tensor:
        """Return the loss of scores, in nats; of single values half their distance in :attr:`unit`.

        Raises:
            InputError: labels are wanted where there is not one a row of scores.
        """
        loss = scores.new_zeros(())
        if self.labels < 1:
            with torch.no_grad():
                wanted = self.outputs(self.teacher, seen.inputs)
            apart = divergence(scores, wanted, self.temperature) / self.unit
            loss = (1 - self.labels) * apart
        if self.labels > 0:
            n, n_classes = scores.shape
            known = len(seen.labels) == n and bool((seen.labels >= 0).all())
            if n_classes < 2 or not known or bool((seen.labels >= n_classes).any()):
                raise InputError(
                    f"labels = {self.labels:g} needs one of the {n_classes} classes of every row "
                    f"of scores; the network gives {n} rows for {len(seen.labels)} inputs, and "
                    "inputs given from Python have no labels; use labels = 0"
                )
            loss = loss + self.labels * F.cross_entropy(scores, seen.labels)
        return loss


def lesson_of(
    outputs: Outputs, network: Network, session: Session, temperature: float = 1.0
) -> Lesson:
    """Return what a network is trained towards.

    The unit of single values is the variance of the float network's on some inputs: then the loss
    is the part of it that is lost, and one rate means the same trade whatever the values measure.

    Args:
        outputs: runs the network.
        network: the float network.
        session: where to train.
        temperature: see :class:`Lesson`.
    """
    teacher = float_tensors(network, session.device)

    def values_of(n_inputs: int) -> Tensor:
        inputs, _ = next(iter(session.images.batches(n_inputs)))
        with torch.no_grad():
            return outputs(teacher, inputs.to(session.device))

    is_single = values_of(2).shape[1] == 1
    unit = float(values_of(UNIT_FROM).double().var(correction=0)) if is_single else 1.0
    return Lesson(outputs, teacher, session.options.labels, temperature, unit or 1.0)


def divergence(scores: Tensor, wanted: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the mean divergence of scores from wanted ones, times the temperature squared.

    Args:
        scores: ``(n, classes)``, or ``(n, 1)`` for single values.
        wanted: likewise.
        temperature: divides both.
    """
    if scores.shape[1] == 1:
        return 0.5 * F.mse_loss(scores, wanted)
    return temperature**2 * F.kl_div(
        F.log_softmax(scores / temperature, 1),
        F.log_softmax(wanted / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
