"""Measure solutions of moeash's own studies as the peers are measured.

    python studies/comparison/solutions.py studies/results/*/front.json

Some solutions of every front are rebuilt from their candidates, written to a file, read back and
measured: bytes are the file's, weights are what it decodes to. A solution that no longer rebuilds
to the weights the study measured ends the run: the study has to be run again first.
"""

import argparse
import json
import tempfile
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any

import torch
from measure import Bench
from rows import Row, read_rows, write_rows

from moeash.codec.container import read, write
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.evaluate import Evaluator
from moeash.study.spec.reading import parse_spec
from moeash.study.spec.spec import StudySpec

SHOWN = 10
"""Solutions of a front that are measured."""


def chosen(front: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Return at most n solutions whose sizes are evenly spaced on a log axis, ends included."""
    sizes = [log(solution["size_bytes"]) for solution in front]
    places = {
        min(range(len(front)), key=lambda i: abs(sizes[i] - wanted))
        for step in range(n)
        for wanted in [min(sizes) + (max(sizes) - min(sizes)) * step / max(n - 1, 1)]
    }
    return [front[i] for i in sorted(places)]


def measured(summary: dict[str, Any], spec: StudySpec, bench: Bench) -> list[Row]:
    """Return the rows of one study."""
    task = spec.task()
    evaluator = Evaluator(task)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "solution.moeash"
        for solution in chosen(summary["front"], SHOWN):
            recipe = Recipe.from_dict(solution["recipe"])
            shared = evaluator.compressor.build(recipe)
            if shared.fingerprint() != solution["fingerprint"]:
                raise SystemExit(
                    f"{spec.name}: solution {solution['id']} rebuilds to other weights than the "
                    "study measured; run the study again"
                )
            write(path, shared, coder=task.codec.coder, notes=task.notes)
            state = {
                name: torch.tensor(values) for name, values in read(path).shared.decoded().items()
            }
            rows.append(
                {
                    "peer": f"moeash {task.method.name}",
                    "setting": str(recipe),
                    "size_bytes": path.stat().st_size,
                    "study": spec.name,
                    "solution": solution["id"],
                    "versions": {package: version(package) for package in ("moeash", "torch")},
                    **bench.measure(state, spec.name),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    evaluator.close()
    return rows


def put_solutions(fronts: list[Path]) -> None:
    """Measure solutions of every front and replace the rows of its study."""
    benches: dict[str, Bench] = {}
    for path in fronts:
        summary = json.loads(path.read_text())
        spec = parse_spec(summary["spec"])
        if spec.network.source not in benches:
            benches[spec.network.source] = Bench(spec.task())
        rows = measured(summary, spec, benches[spec.network.source])
        write_rows([row for row in read_rows() if row.get("study") != spec.name] + rows)


def main() -> None:
    """Measure the fronts named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fronts", type=Path, nargs="+", help="front.json of finished studies")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    put_solutions(arguments.fronts)


if __name__ == "__main__":
    main()
