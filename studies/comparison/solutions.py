"""Measure solutions of moeash's own studies as the peers are measured.

    python studies/comparison/solutions.py studies/results/*/front.json
    python studies/comparison/solutions.py --storage moeash.db studies/results/*wfn/front.json

Some solutions of every front are rebuilt from their candidates, written to a file, read back and
measured: bytes are the file's, weights are what it decodes to. A solution that no longer rebuilds
to the weights the study measured ends the run: the study has to be run again first. Solutions that
were trained are not trained again: they are read from the storage their study ran in. Of a study
that distills, what it has distilled is measured. Whatever a study ran on, peers and solutions are
measured on the CPU.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any

import torch
from measure import Bench
from rows import Row, read_rows, write_rows

from moeash import open_study
from moeash.codec.container import read, write
from moeash.core.solutions.recipe import Distill, Recipe
from moeash.evaluation.evaluate import Evaluator
from moeash.exports.building import building
from moeash.study.artifacts import Build
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


@contextmanager
def builds(spec: StudySpec, storage: str | None) -> Iterator[Build]:
    """Hold what builds the solutions of a study."""
    if storage is not None:
        here = ["evaluation.device=cpu"]
        study = open_study(spec.name, storage=storage, spec=spec, settings=here)
        with building(study) as build:
            yield build
        return
    if spec.trained_by is not None:
        raise SystemExit(f"{spec.name} trains its solutions; give the --storage it ran in")
    evaluator = Evaluator(spec.task())
    try:
        yield evaluator.compressor.build
    finally:
        evaluator.close()


def measured(
    summary: dict[str, Any], spec: StudySpec, bench: Bench, storage: str | None
) -> list[Row]:
    """Return the rows of one study."""
    task = spec.task()
    recipes = [Recipe.from_dict(solution["recipe"]) for solution in summary["front"]]
    distilled = [any(isinstance(step, Distill) for step in recipe.steps) for recipe in recipes]
    front = [
        solution
        for solution, is_distilled in zip(summary["front"], distilled, strict=True)
        if is_distilled or not any(distilled)
    ]
    rows = []
    with tempfile.TemporaryDirectory() as folder, builds(spec, storage) as build:
        path = Path(folder) / "solution.moeash"
        for solution in chosen(front, SHOWN):
            recipe = Recipe.from_dict(solution["recipe"])
            shared = build(recipe)
            if shared.fingerprint() != solution["fingerprint"]:
                raise SystemExit(
                    f"{spec.name}: solution {solution['id']} rebuilds to other weights than the "
                    "study measured; run the study again"
                )
            write(path, shared, coder=task.codec.coder, notes=task.notes)
            decoded = read(path).shared
            state = {name: torch.tensor(values) for name, values in decoded.decoded().items()}
            rows.append(
                {
                    "peer": f"moeash {task.method.name}" + " distilled" * any(distilled),
                    "setting": str(recipe),
                    "size_bytes": path.stat().st_size,
                    "entropy": decoded.entropy,
                    "study": spec.name,
                    "solution": solution["id"],
                    "versions": {package: version(package) for package in ("moeash", "torch")},
                    **bench.measure(state, spec.name),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def put_solutions(fronts: list[Path], storage: str | None = None) -> None:
    """Measure solutions of every front and replace the rows of its study."""
    benches: dict[str, Bench] = {}
    for path in fronts:
        summary = json.loads(path.read_text())
        spec = parse_spec(summary["spec"])
        if spec.network.source not in benches:
            benches[spec.network.source] = Bench(spec.task())
        rows = measured(summary, spec, benches[spec.network.source], storage)
        write_rows([row for row in read_rows() if row.get("study") != spec.name] + rows)


def main() -> None:
    """Measure the fronts named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", help="of studies whose solutions were trained")
    parser.add_argument("fronts", type=Path, nargs="+", help="front.json of finished studies")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    put_solutions(arguments.fronts, arguments.storage)


if __name__ == "__main__":
    main()
