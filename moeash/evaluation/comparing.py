"""A network beside itself as it was, on inputs without labels."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from moeash.data.inputs import call
from moeash.data.unlabelled import Unlabelled
from moeash.errors import EvaluationError
from moeash.evaluation.holdout import Outputs
from moeash.evaluation.metrics import predicted
from moeash.evaluation.task import Evaluate
from moeash.tracing.outputs import OutputOf, chosen


class Comparison:
    """Outputs on inputs, compared with those of the first network that was run.

    Outputs are ``(n, ..., n_classes)``; every row counts, each token of a language model as well.

    Args:
        inputs: all of them are run.
        batch_size: inputs at a time.
        device: where the network is.
        output: names what counts of what the network returns.
    """

    def __init__(
        self, inputs: Unlabelled, *, batch_size: int, device: str, output: OutputOf | None
    ) -> None:
        self._inputs = inputs
        self._batch_size = batch_size
        self._device = device
        self._output = output
        self._first: Outputs | None = None

    def _outputs(self, module: nn.Module) -> Tensor:
        rows = []
        with torch.inference_mode():
            for batch, _ in self._inputs.batches(self._batch_size):
                found = chosen(call(module, batch.to(self._device)), self._output).cpu()
                if found.ndim < 2 or found.shape[-1] < 2:
                    raise EvaluationError(
                        f"the network returns {tuple(found.shape)}, needed (n, ..., n_classes) to "
                        "compare classes; name what counts with output=, or give a candidate"
                    )
                rows.append(found.reshape(-1, found.shape[-1]).float())
        return torch.cat(rows)

    def outputs(self, module: nn.Module) -> Outputs:
        """Run a network, in eval mode, and return its outputs beside those of the first one run.

        Raises:
            EvaluationError: it returns no classes.
        """
        outputs = self._outputs(module)
        if self._first is None:
            self._first = Outputs(predicted(outputs), outputs, outputs)
        return replace(self._first, decoded=outputs)

    def by(self, metric: str) -> Evaluate:
        """Return what measures a network by ``"agreement"`` or ``"neg_divergence"``."""

        def evaluate(module: nn.Module) -> float:
            found = self.outputs(module)
            return found.measured(found.decoded, metric).metric

        return evaluate
