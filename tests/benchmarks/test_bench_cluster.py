"""What distributing costs and gains: ratios measured in one run, printed, none asserted on time."""

import resource
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moeash.backends.inprocess import InProcessBackend
from moeash.backends.pool import Limits, Pool
from moeash.backends.ray import RayBackend, RayOptions
from moeash.core.candidate import Candidate
from moeash.evaluation.outcome import Archive, Job
from moeash.evaluation.task import NetworkTask, Task
from moeash.methods.uniform import Uniform
from moeash.study.spec import load_spec
from moeash.study.storage.records import EvaluationRecord
from moeash.study.storage.sql import SqlStorage
from tests.backends.crew import Ok, SimulatedCrew
from tests.backends.studies import front, run_study, spec
from tests.contracts.storage import COMPLETE, FACTS

pytestmark = pytest.mark.benchmark

NOTHING = Archive(("size_bytes",))
ROOT = Path(__file__).parents[2]


def limits(n):
    return Limits(0, n, timeout_s=1e9, max_tries=3, start_timeout_s=1e9)


def lognormal(seed=0, sigma=0.8):
    rng = np.random.default_rng(seed)
    times = rng.lognormal(0.0, sigma, 200_000)
    return lambda payload, tries, crew: Ok(float(times[payload]))


def test_the_driver_keeps_up_with_a_thousand_workers(tmp_path, capsys):
    """Real time of the scheduler, alone and with every answer committed to SQLite."""
    n, lines = 10_000, []
    for stored in (False, True):
        pool = Pool(SimulatedCrew(lognormal()), limits(1000))
        storage = SqlStorage(str(tmp_path / f"{stored}.db"))
        study = storage.create_study(FACTS)
        with storage.lock("digits"):
            started = time.perf_counter()
            for payload in range(n):
                pool.submit(payload)
            records = []
            for number in range(1, n + 1):
                ticket, _ = pool.next()
                job = Job(Candidate.of({"k": ticket}))
                records.append(EvaluationRecord(number, "search", 1, None, job, COMPLETE, "now"))
                if stored and not pool.n_ready:
                    storage.add_evaluations(study.id, records)
                    records.clear()
            rate = n / (time.perf_counter() - started)
        lines.append(f"{'with storage' if stored else 'scheduling alone'} {rate:,.0f}")
        assert pool.n_alive == 1000
    with capsys.disabled():
        print(f"\n1,000 workers, completions a second (needed 500): {', '.join(lines)}")


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
    """Hypervolume after 60 distinct candidates, five seeds, one process."""
    ratios = []
    for seed in range(5):
        volumes = {}
        for mode in ("generational", "steady"):
            changes = {
                "seed": seed,
                "search__mode": mode,
                "search__stop": {"evaluations": 60},
                "search__population": 10,
                "method": {"name": "uniform", "k": [2, 256]},
                "merge": {"enabled": False},
            }
            study = run_study(tmp_path, spec(f"{mode}-{seed}", **changes))
            volumes[mode] = study.generations()[-1].hypervolume
            assert front(study)
        ratios.append(volumes["steady"] / volumes["generational"])
    with capsys.disabled():
        print(f"\nhypervolume, steady / generational: {' '.join(f'{r:.4f}' for r in ratios)}")


def tiny(module):
    return 1.0 / (1.0 + float(module.weight.abs().sum()))


def tiny_task():
    torch.manual_seed(0)
    return Task(
        network=NetworkTask(torch.nn.Linear(64, 64)),
        data=None,
        evaluate=tiny,
        metric="tiny",
        method=Uniform(k=(2, 20_000)),
        objectives=("size_bytes",),
        coder="ans",
        kept="float32",
        norms="as_they_are",
        notes={},
        batch_size=1,
        n_threads=1,
        device="cpu",
        seed=0,
    )


@pytest.fixture
def backends(loopback_only):
    """Open backends one after the other, each closed before the next."""
    opened = []

    def open_(task, workers=None):
        while opened:
            opened.pop().close()
        options = RayOptions(max_workers=workers, cpus_per_worker=1.0)
        made = InProcessBackend(task) if workers is None else RayBackend(task, options)
        opened.append(made)
        made.open()
        if workers is not None:
            made.pool.ensure(workers)
        return made

    yield open_
    while opened:
        opened.pop().close()


@pytest.mark.ray
@pytest.mark.filterwarnings("default")
def test_overhead_and_memory_over_ten_thousand_candidates(backends, capsys):
    backend = backends(tiny_task(), 1)
    rss, overheads = [], []
    for start in range(2, 10_002, 1000):
        jobs = [Job(Candidate.of({"k": k})) for k in range(start, start + 1000)]
        started = time.perf_counter()
        pure = sum(outcome.duration_s for _, outcome in backend.map(jobs, NOTHING))
        overheads.append((time.perf_counter() - started - pure) / len(jobs))
        statm = Path("/proc/self/statm").read_text().split()
        rss.append(int(statm[1]) * resource.getpagesize() / 2**20)
    with capsys.disabled():
        print(
            f"\noverhead a candidate: median {1e3 * np.median(overheads):.2f} ms (at most 10); "
            f"driver memory after 1,000 and 10,000 candidates: {rss[0]:.1f} and {rss[-1]:.1f} MiB"
        )
    assert rss[-1] - rss[0] < 20, "driver memory grows with candidates"


@pytest.mark.ray
@pytest.mark.realdata
@pytest.mark.filterwarnings("default")
def test_two_workers_against_one_on_resnet20(backends, real_data, capsys):
    path = ROOT / "studies" / "cifar10-resnet20.toml"
    checkpoint = real_data / "models" / "resnet20-cifar10-jpeg.safetensors"
    study = load_spec(
        path,
        [
            f'network.checkpoint="{checkpoint}"',
            f'data.root="{real_data / "cifar10-jpeg"}"',
            "data.splits.search.count=1000",
        ],
    )
    task = replace(study.task(), n_threads=1)
    jobs = [Job(Candidate.of({"k": k})) for k in range(20, 44)]
    seconds = {}
    for workers in (1, 2):
        backend = backends(task, workers)
        list(backend.map(jobs[:4], NOTHING))  # every worker holds its images now
        started = time.perf_counter()
        list(backend.map(jobs, NOTHING))
        seconds[workers] = time.perf_counter() - started
    with capsys.disabled():
        print(f"\nResNet-20, two workers over one: {seconds[1] / seconds[2]:.2f}x (needed 1.8)")
