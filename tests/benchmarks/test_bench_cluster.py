"""What distributing costs and gains: ratios measured in one run, printed, none asserted on time."""

import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moeash.backends.inprocess import InProcessBackend
from moeash.backends.options import BackendOptions
from moeash.backends.pool import Pool
from moeash.backends.ray import RayBackend
from moeash.backends.staff import Limits
from moeash.compression.options import CodecOptions
from moeash.core.solutions.recipe import Recipe
from moeash.evaluation.options import EvaluationOptions
from moeash.evaluation.outcome import Archive, Job
from moeash.evaluation.task import Task
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.options import NetworkOptions
from moeash.study.spec.reading import load_spec
from tests.backends.crew import HurriedCrew, Ok, SimulatedCrew
from tests.backends.simulated import SimulatedBackend
from tests.backends.studies import front, run_study, spec
from tests.contracts.outcomes import outcomes

pytestmark = pytest.mark.benchmark

NOTHING = Archive(("size_bytes",))
N_CANDIDATES = int(os.environ.get("MOEASH_BENCH_CANDIDATES", "3000"))
"""Whose overhead and memory are measured; the README has 10,000."""

ROOT = Path(__file__).parents[2]


def limits(n):
    return Limits(0, n, timeout_s=1e9, max_tries=3, start_timeout_s=1e9)


def lognormal(seed=0, sigma=0.8):
    rng = np.random.default_rng(seed)
    times = rng.lognormal(0.0, sigma, 200_000)
    return lambda payload, tries, crew: Ok(float(times[payload]))


def whole_study(tmp_path, mode, n_workers, n, behave, crew):
    """Run a study whose evaluations are made up; everything else of the driver is real."""
    made = []

    def make(task):
        made.append(SimulatedBackend(n_workers, behave, crew))
        return made[0]

    plain = spec(
        f"{mode}-{n_workers}",
        search__algorithm=mode,
        search__population=n_workers,
        budget={"evaluations": n},
        method={"name": "uniform", "k": [2, 1_048_576]},
        merge={"trials": 0},
        evaluation__max_drop=None,
    )
    folder = tmp_path / mode
    folder.mkdir(exist_ok=True)
    study = run_study(folder, plain, make_backend=make)
    return study, made[0]


@pytest.mark.parametrize("mode", ["nsga2", "steady_nsga2"])
def test_the_driver_keeps_up_with_a_thousand_workers(mode, tmp_path, capsys):
    """A whole study in real time: NSGA-II, scheduling, and every answer committed to SQLite.

    Workers take 0.2 s each, so they offer 5,000 completions a second and the driver is what limits.
    """
    n = 3_000
    wall, cpu = time.perf_counter(), time.process_time()
    study, _ = whole_study(tmp_path, mode, 1000, n, lambda job, tries, crew: Ok(0.2), HurriedCrew)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = len(study.evaluations())
    with capsys.disabled():
        print(
            f"\n1,000 workers, {mode}, with storage: {done / wall:,.0f} completions a second "
            f"(needed 500), {done / cpu:,.0f} a second of the driver's CPU"
        )
    assert done >= n


def test_scheduling_alone_is_no_limit(capsys):
    n = 20_000
    pool = Pool(SimulatedCrew(lognormal()), limits(1000))
    started = time.process_time()
    for payload in range(n):
        pool.submit(payload)
    for _ in range(n):
        pool.next()
    with capsys.disabled():
        rate = n / (time.process_time() - started)
        print(f"\n1,000 workers, scheduling alone: {rate:,.0f} completions a second of CPU")
    assert pool.n_alive == 1000


@pytest.mark.parametrize("workers", [16, 64, 1000])
def test_utilisation_falls_with_the_tail_of_a_generation(workers, capsys):
    """Simulated time, log-normal evaluation times: population = workers, and twice that."""
    n = 20 * workers
    found = {}
    for name, size in (("population = workers", workers), ("= 2 x workers", 2 * workers)):
        crew = SimulatedCrew(lognormal())
        crew.start_takes_s = 0.0
        pool = Pool(crew, limits(workers))
        for start in range(0, n, size):
            for payload in range(start, start + size):
                pool.submit(payload)
            for _ in range(size):
                pool.next()
        found[name] = pool.usage.utilisation
    crew = SimulatedCrew(lognormal())
    crew.start_takes_s = 0.0
    pool = Pool(crew, limits(workers))
    for payload in range(workers):
        pool.submit(payload)
    for payload in range(workers, n):
        pool.next()
        pool.submit(payload)
    found["steady"] = pool.usage.utilisation
    with capsys.disabled():
        text = ", ".join(f"{name} {100 * used:.0f} %" for name, used in found.items())
        print(f"\nutilisation of {workers} workers: {text}")
    assert found["steady"] > found["= 2 x workers"] > found["population = workers"]


def test_steady_and_generational_fronts_on_the_same_budget(tmp_path, capsys):
    """Hypervolume after 60 distinct candidates, three seeds, one process."""
    ratios = []
    for seed in range(3):
        volumes = {}
        for mode in ("nsga2", "steady_nsga2"):
            changes = {
                "seed": seed,
                "search__algorithm": mode,
                "budget": {"evaluations": 60},
                "search__population": 10,
                "method": {"name": "uniform", "k": [2, 256]},
                "merge": {"trials": 0},
            }
            study = run_study(tmp_path, spec(f"{mode}-{seed}", **changes))
            volumes[mode] = study.generations()[-1].hypervolume
            assert front(study)
        ratios.append(volumes["steady_nsga2"] / volumes["nsga2"])
    with capsys.disabled():
        print(f"\nhypervolume, steady / generational: {' '.join(f'{r:.4f}' for r in ratios)}")


def tiny(module):
    return 1.0 / (1.0 + float(module.weight.abs().sum()))


def tiny_task():
    torch.manual_seed(0)
    return Task(
        network=NetworkOptions("python:Linear"),
        data=None,
        evaluation=EvaluationOptions("tiny"),
        method=Uniform(UniformOptions(k=(2, 20_000))),
        codec=CodecOptions(kept="float32", norms="as_they_are"),
        objectives=("size_bytes",),
        seed=0,
        n_threads=1,
        module=torch.nn.Linear(64, 64),
        evaluate=tiny,
    )


@pytest.fixture
def backends(loopback_only):
    """Open backends one after the other, each closed before the next."""
    opened = []

    def open_(task, workers=None):
        while opened:
            opened.pop().close()
        made = (
            InProcessBackend(task)
            if workers is None
            else RayBackend(task, BackendOptions("ray", workers=workers, cpus_per_worker=1.0))
        )
        opened.append(made)
        made.open()
        if workers is not None:
            made.pool.ensure(workers)
        return made

    yield open_
    while opened:
        opened.pop().close()


def worker_cpu(backend):
    """CPU seconds of all workers so far."""
    return sum(backend.crew.ask(lambda worker: time.process_time()))


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_overhead_and_memory_over_thousands_of_candidates(backends, capsys):
    backend = backends(tiny_task(), 1)
    rss, overheads = [], []
    cpu = time.process_time()
    for start in range(2, 2 + N_CANDIDATES, 1000):
        jobs = [Job(Recipe.of({"k": k})) for k in range(start, start + 1000)]
        started = time.perf_counter()
        pure = sum(outcome.duration_s for _, outcome in outcomes(backend, jobs, NOTHING))
        overheads.append((time.perf_counter() - started - pure) / len(jobs))
        statm = Path("/proc/self/statm").read_text().split()
        rss.append(int(statm[1]) * resource.getpagesize() / 2**20)
    cpu = (time.process_time() - cpu) / N_CANDIDATES
    with capsys.disabled():
        print(
            f"\noverhead a candidate: median {1e3 * np.median(overheads):.2f} ms (at most 10), "
            f"{1e3 * cpu:.2f} ms of the driver's CPU; "
            f"driver memory after 1,000 and {N_CANDIDATES:,} candidates: {rss[0]:.1f} and "
            f"{rss[-1]:.1f} MiB"
        )
    assert rss[-1] - rss[0] < 20, "driver memory grows with candidates"


SPIN = """
import time, torch
torch.set_num_threads(1)
a, n, end = torch.randn(500, 500), 0, time.perf_counter() + 4
while time.perf_counter() < end:
    a @ a
    n += 1
print(n)
"""


def two_plain_processes():
    """What this machine gives two processes over one at this moment: the most anybody can get."""

    def done(n_processes):
        command = [sys.executable, "-c", SPIN]
        running = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n_processes)
        ]
        return sum(int(process.communicate()[0]) for process in running)

    return done(2) / done(1)


@pytest.mark.ray
@pytest.mark.realdata
@pytest.mark.filterwarnings("default")
def test_two_workers_against_one_on_resnet20(backends, real_data, capsys):
    """Wall time, and what two cores of their own would give, from CPU times and idle shares."""
    path = ROOT / "studies" / "cifar10-resnet20.toml"
    checkpoint = real_data / "models" / "resnet20-cifar10-jpeg.safetensors"
    study = load_spec(
        path,
        [
            f'network.checkpoint="{checkpoint}"',
            f'data.root="{real_data / "cifar10-jpeg"}"',
            "data.splits.search.count=500",
        ],
    )
    task = replace(study.task(), n_threads=1)
    jobs = [Job(Recipe.of({"k": k})) for k in range(20, 36)]
    seconds, cpu, driver, used = {}, {}, {}, {}
    for workers in (1, 2):
        backend = backends(task, workers)
        list(outcomes(backend, jobs[:4], NOTHING))  # every worker has touched its images now
        before, usage = worker_cpu(backend), backend.usage
        started, driver_started = time.perf_counter(), time.process_time()
        list(outcomes(backend, jobs, NOTHING))
        seconds[workers] = time.perf_counter() - started
        driver[workers] = time.process_time() - driver_started
        cpu[workers] = worker_cpu(backend) - before
        now = backend.usage
        used[workers] = (now.busy_s - usage.busy_s) / (workers * seconds[workers])
    free = 2 * used[2] / used[1] * cpu[1] / cpu[2]
    with capsys.disabled():
        print(
            f"\nResNet-20, two workers over one: {seconds[1] / seconds[2]:.2f}x of wall time "
            f"(needed 1.8; two plain processes get {two_plain_processes():.2f}x here and now), "
            f"{free:.2f}x on two free cores: workers were busy "
            f"{100 * used[2]:.0f} % of the time, a candidate takes {cpu[1] / len(jobs):.2f} s of "
            f"CPU with one and {cpu[2] / len(jobs):.2f} s with two; "
            f"driver {1e3 * driver[2] / len(jobs):.1f} ms"
        )
