"""A network beside itself as it was, on inputs without labels."""

import numpy as np
import torch
from torch import Tensor, nn

from moeash.data.inputs import call
from moeash.data.unlabelled import Unlabelled
from moeash.errors import EvaluationError
from moeash.evaluation.holdout import HoldoutResult, measure_outputs
from moeash.evaluation.metrics import load_metric, predicted
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
        self._exact: Tensor | None = None

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

    def measure(self, module: nn.Module, metric: str) -> HoldoutResult:
        """Return what a network's outputs are beside those of the first network measured.

        Args:
            module: the network, in eval mode.
            metric: ``"agreement"`` or ``"neg_divergence"``.

        Raises:
            EvaluationError: it returns no classes.
        """
        outputs = self._outputs(module)
        if self._exact is None:
            self._exact = outputs
        labels: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = predicted(self._exact)
        return measure_outputs(outputs, self._exact, labels, load_metric(metric))

    def by(self, metric: str) -> Evaluate:
        """Return the function that measures a network by a metric."""
        return lambda module: self.measure(module, metric).metric
