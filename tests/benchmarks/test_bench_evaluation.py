"""What an evaluation costs beyond its forward passes; what stopping and the cache save."""

import os
import subprocess
import sys
import textwrap
import time
from statistics import median

import numpy as np
import pytest
import torch

import moeash
from moeash.core.solutions.objectives import as_minimised
from moeash.core.solutions.pareto import non_dominated
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Archive, Job
from moeash.searches.base import Fitness
from moeash.searches.nsga2 import Nsga2Search
from moeash.searches.options import SearchOptions
from moeash.searches.space import Space
from moeash.study.spec.reading import parse_spec

pytestmark = [pytest.mark.benchmark, pytest.mark.slow, pytest.mark.realdata]

N_IMAGES = int(os.environ.get("MOEASH_BENCH_IMAGES", "250"))
"""Search images; set more for figures of a real study."""

POPULATION, GENERATIONS = 10, 6
"""Of the study whose batches are counted."""

NOTHING = Archive(("size_bytes",))


@pytest.fixture(scope="module")
def spec(real_data):
    return parse_spec(
        {
            "name": "bench",
            "network": {
                "source": "resnet20",
                "checkpoint": str(real_data / "models" / "resnet20-cifar10-jpeg.safetensors"),
            },
            "data": {
                "source": "imagefolder",
                "root": str(real_data / "cifar10-jpeg"),
                "options": {"preset": "cifar"},
                "splits": {"search": {"part": "test", "count": N_IMAGES, "seed": 0}},
            },
            "evaluation": {"batch_size": min(50, N_IMAGES), "threads": 1},
            "search": {"population": POPULATION},
            "budget": {"generations": GENERATIONS},
            "merge": {"trials": 0},
        }
    )


def test_overhead_of_an_evaluation(spec, capsys):
    evaluator = Evaluator(spec.task())
    job = Job(Recipe.of({"k": 96}))
    evaluator.evaluate(job, NOTHING)  # reorders the images once
    batches = []
    module = evaluator.compressor.network.module
    hook = module.register_forward_pre_hook(lambda module, inputs: batches.append(inputs[0]))
    evaluator.evaluate(job, NOTHING)
    hook.remove()
    whole, bare = [], []
    for _ in range(5):  # in turn, so that both meet the same neighbours on a shared machine
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                module(batch)
        bare.append(time.perf_counter() - started)
        started = time.perf_counter()
        outcome = evaluator.evaluate(job, NOTHING)
        whole.append(time.perf_counter() - started)
        assert outcome.status == "complete"
    pairs = [w / b - 1 for w, b in zip(whole, bare, strict=True)]
    with capsys.disabled():
        print(
            f"\nevaluation of {N_IMAGES} images beyond its forward passes: "
            f"{100 * median(pairs):.1f} % ({100 * min(pairs):.1f} to {100 * max(pairs):.1f}), "
            f"forward {median(bare):.2f} s"
        )


def plain_loop(evaluator, seed):
    """NSGA-II as a script would run it: every proposal evaluated in full, nothing remembered.

    The benchmark itself remembers metrics to save its own time, but counts every batch.
    """
    space = Space(tuple(evaluator.task.method.space()))
    search = Nsga2Search(space, SearchOptions(population=POPULATION), seed=seed)
    known, n_batches = {}, 0
    for _ in range(GENERATIONS):
        candidates = search.ask()
        told = []
        for candidate in candidates:
            n_batches += evaluator.assessment.n_batches
            if candidate not in known:
                outcome = evaluator.evaluate(Job(Recipe(candidate)), NOTHING)
                known[candidate] = (outcome.metric, outcome.sizes.size_bytes)
            metric, size_bytes = known[candidate]
            f = as_minimised(np.array([metric]), np.array([[size_bytes]]))[0]
            told.append(Fitness(tuple(f)))
        search.tell(told)
    points = np.array(list(known.values()))
    front = points[non_dominated(as_minimised(points[:, 0], points[:, 1:]))]
    return {tuple(row) for row in front}, n_batches


def test_batches_saved_by_stopping_and_cache(spec, tmp_path, capsys):
    study = moeash.run(spec, storage=str(tmp_path / "bench.db"))
    ours = sum(r.outcome.n_batches for r in study.evaluations())
    front = {(s.metric, float(s.size_bytes)) for s in study.front()}
    plain_front, plain = plain_loop(Evaluator(spec.task()), spec.seed)
    with capsys.disabled():
        print(
            f"\nforward batches: {ours} against {plain} of a plain loop with the same seed "
            f"({ours / plain:.2f}); same front: {front == plain_front}, "
            f"{len(front & plain_front)} points in common of {len(front)} and {len(plain_front)}"
        )
    assert ours < plain


def test_peak_memory_of_compressing_vit(tmp_path, capsys):
    code = """
        import resource, sys, torchvision, moeash
        network = torchvision.models.vit_b_16()
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = moeash.compress(network, sys.argv[1], candidate={"k": 64})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(loaded, peak, report.total)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "vit.moeash")],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, peak, size_bytes = map(int, done.stdout.split())
    with capsys.disabled():
        print(
            f"\nvit_b_16 (86M weights) to {size_bytes:,} B: peak {peak / 1e6:.2f} GB resident, "
            f"{loaded / 1e6:.2f} GB of it with the network just loaded"
        )
