"""GPFQ's own claim on these networks: its rule against nearest rounding at the same alphabet.

    python studies/comparison/gpfq_claim.py studies/mnist-lenet300.toml --symbols 3 4 8
    python studies/comparison/gpfq_claim.py studies/cifar10-resnet20.toml --symbols 4 8 16 \
        --images 100

The alphabet is that of the first GPFQ paper (Lybrand and Saab): ``symbols`` equal steps over
+- C times the median magnitude of a layer's weights. Both rules get the C that is best for them on
the search split; the holdout split is measured once, with that C. Biases and BatchNorms stay
float, so this is about rules, not about files.

Writes ``gpfq_claim.json`` and a table of README.md.
"""

import argparse
import copy
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tables import put_table
from torch import Tensor, nn

from moeash.data.splits import load_splits
from moeash.evaluation.holdout import outputs_on
from moeash.evaluation.metrics import predicted
from moeash.methods.gpfq.layers import Alphabet, finite_alphabet, quantisable, quantise_gpfq
from moeash.networks.loading.sources import read_network
from moeash.study.spec.reading import load_spec
from moeash.tracing.patches import rows_of

RESULT = Path(__file__).with_name("gpfq_claim.json")
SCALES = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
"""C of the paper, in medians."""

Values = Mapping[str, Tensor]


def uniform_alphabet(weight: Tensor, *, symbols: int, scale: float) -> Alphabet:
    """Return ``radius linspace(-1, 1, symbols)``, radius = scale times the median magnitude.

    The alphabet of the first GPFQ paper. Without a zero for an even number of symbols; a target
    half-way between two takes the lower.
    """
    radius = scale * float(weight.abs().double().median()) or 1.0
    return finite_alphabet(radius * torch.linspace(-1, 1, symbols, dtype=weight.dtype))


class Bench:
    """A network with its splits."""

    def __init__(self, spec: Path, images: int, search_images: int) -> None:
        """Load everything once."""
        task = load_spec(spec).task()
        assert task.data is not None
        self.name = task.network.source
        self.module = read_network(task.network).module.eval()
        self.splits = load_splits(task.data)
        # Splits may be sorted by class.
        draw = np.random.default_rng(0)
        order = draw.permutation(len(self.splits["calibration"]))[:images]
        batches = self.splits["calibration"].batches(100, order=order)
        self.calibration = [x.clone() for x, _ in batches]
        self.search = draw.permutation(len(self.splits["search"]))[:search_images]

    def gpfq(self, symbols: int, scale: float) -> Values:
        """Return every layer's weights along the greedy path."""
        alphabet = partial(uniform_alphabet, symbols=symbols, scale=scale)
        layers = quantise_gpfq(self.module, self.calibration, alphabet)
        return {layer.name: layer.entries[layer.indices] for layer in layers}

    def nearest(self, symbols: int, scale: float) -> Values:
        """Return every layer's weights rounded to the nearest symbol."""
        values = {}
        weights = dict(self.module.named_parameters())
        for name in quantisable(self.module, self.calibration)[0]:
            weight = rows_of(weights[name].detach(), 1).double()
            alphabet = uniform_alphabet(weight, symbols=symbols, scale=scale)
            rounded = alphabet.entries[alphabet.quantise(weight)]
            values[name] = rounded.reshape(weights[name].shape).float()
        return values

    def top1(self, values: Values, split: str) -> float:
        """Return the top-1 of the network with these weights."""
        module = copy.deepcopy(self.module)
        module.load_state_dict(module.state_dict() | dict(values))
        if split == "search":
            return self._top1_search(module)
        images = self.splits[split]
        outputs = outputs_on(module, images, batch_size=250, device="cpu")
        return float(np.mean(np.asarray(predicted(outputs) == images.labels)))

    def _top1_search(self, module: nn.Module) -> float:
        right = 0
        with torch.inference_mode():
            for x, y in self.splits["search"].batches(250, order=self.search):
                right += int((predicted(module(x)) == y.numpy()).sum())
        return right / len(self.search)


def compare(bench: Bench, symbols: int) -> dict[str, dict[str, float]]:
    """Return the best C, search and holdout top-1 of both rules."""
    result = {}
    for rule, assign in (("GPFQ", bench.gpfq), ("nearest", bench.nearest)):
        tried = {scale: bench.top1(assign(symbols, scale), "search") for scale in SCALES}
        best = max(tried, key=lambda scale: tried[scale])
        result[rule] = {
            "scale": best,
            "search_top1": tried[best],
            "holdout_top1": bench.top1(assign(symbols, best), "holdout"),
            **{f"search_top1 at {scale:g}": top1 for scale, top1 in tried.items()},
        }
        print(bench.name, symbols, rule, json.dumps(result[rule]), flush=True)
    return result


def table(results: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> str:
    """Return the Markdown table."""
    lines = [
        "| network | symbols a layer | float | GPFQ (C) | nearest (C) |",
        "|---|---|---|---|---|",
    ]
    for network, by_symbols in results.items():
        exact = by_symbols["float"]["float"]["holdout_top1"]
        for symbols, rules in by_symbols.items():
            if symbols != "float":
                cells = [f"{r['holdout_top1']:.4f} ({r['scale']:g})" for r in rules.values()]
                lines.append(f"| {network} | {symbols} | {exact:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Compare on one network and add it to what is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--symbols", type=int, nargs="+", default=[3, 4, 8, 16])
    parser.add_argument("--images", type=int, default=1000, help="calibration images")
    parser.add_argument("--search-images", type=int, default=2000, help="that choose C")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(arguments.spec, arguments.images, arguments.search_images)
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results[bench.name] = {
        "float": {"float": {"holdout_top1": bench.top1({}, "holdout")}},
        **{str(symbols): compare(bench, symbols) for symbols in arguments.symbols},
    }
    RESULT.write_text(json.dumps(results, indent=1) + "\n")
    put_table("gpfq claim", table(results))


if __name__ == "__main__":
    main()
