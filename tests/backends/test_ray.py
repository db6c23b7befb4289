"""The Ray backend against the in-process one: the same sequence, whatever happens to workers."""

import contextlib
import os
import re
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from moeash.api.studies import run_with_output
from moeash.backends.options import BackendOptions
from moeash.backends.ray import RayBackend
from moeash.backends.worker import EvaluationWorker
from moeash.errors import BackendError
from moeash.evaluation.evaluate import Evaluator
from moeash.evaluation.outcome import Job
from moeash.methods.registry import METHODS
from moeash.methods.training.checkpoints import SUFFIX, Checkpoint
from moeash.methods.uniform.options import UniformOptions
from moeash.study.storage.sql import SqlStorage
from tests.backends.cluster import wait_until
from tests.backends.studies import (
    SMALL_RAY,
    Faulty,
    Listener,
    Preparing,
    PreparingSlowly,
    front,
    on_ray,
    pids,
    run_study,
    sequence,
    spec,
)
from tests.contracts.backend import NOTHING, TASK, BackendContract, jobs
from tests.contracts.outcomes import outcomes

WORKER = EvaluationWorker.__name__

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(scope="module")
def local_ray(ray_environment):
    """One Ray for the module, with four made-up GPUs."""
    import ray

    ray.init(num_cpus=4, num_gpus=4, **SMALL_RAY)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The reference: the same study in this process."""
    return run_study(tmp_path_factory.mktemp("serial"), spec())


@pytest.fixture(scope="module")
def shared_out(local_ray, tmp_path_factory):
    """The same study on two workers, its output, and who prepared for both."""
    folder = tmp_path_factory.mktemp("ray")
    file = folder / "prepared"
    plain = spec(backend=on_ray(), output={"folder": str(folder / "out")})
    with pytest.MonkeyPatch.context() as patching:
        patching.setitem(METHODS, UniformOptions, lambda made: Preparing(made, file=str(file)))
        study, output = run_with_output(plain, storage=str(folder / "a.db"))
    return study, output, file.read_text().splitlines()


def test_the_stored_sequence_is_that_of_one_process(shared_out, serial):
    """With two workers; with one: test_ray_cluster, where the driver is killed, too."""
    study, _, _ = shared_out
    assert sequence(study) == sequence(serial)
    assert front(study) == front(serial)
    assert any(r.stage == "merged" for r in study.evaluations())


def test_a_run_with_output_prepares_once_for_all_workers_and_the_output(shared_out):
    study, output, prepared_by = shared_out
    assert len(prepared_by) == 1
    assert output.report.size_bytes == study.pick("smallest").size_bytes


def calibrated(**changes):
    """The same study with error feedback, on calibration images."""
    return spec(
        data__splits__calibration={"part": "all", "count": 60, "seed": 0},
        method={"name": "feedback", "k": [4, 40], "images": 60, "sketches": 1},
        search={"population": 6},
        budget={"generations": 2},
        **changes,
    )


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """The study with error feedback, in this process, with norms as they are."""
    return run_study(tmp_path_factory.mktemp("unchanged"), calibrated())


@pytest.mark.parametrize("norms", ["folded", "remeasured"])
def test_a_study_with_feedback_that_changes_norms_has_the_front_of_one_process(
    norms, local_ray, unchanged, tmp_path
):
    alone = run_study(tmp_path, calibrated(name="alone", codec={"norms": norms}))
    study = run_study(tmp_path, calibrated(codec={"norms": norms}, backend=on_ray(workers=2)))
    assert study.facts.remeasured_baseline == alone.facts.remeasured_baseline
    assert sequence(study) == sequence(alone)
    assert front(study) == front(alone) != []
    assert front(unchanged) != front(alone)


def test_losing_workers_changes_nothing(local_ray, serial, tmp_path):
    """One is killed; later another one, not the dead one, answers no more."""
    told = Listener(
        {
            6: lambda: os.kill(min(pids(tmp_path)), signal.SIGKILL),
            12: lambda: os.kill(max(pids(tmp_path)), signal.SIGSTOP),
        }
    )
    study = run_study(
        tmp_path,
        spec(backend=on_ray(timeout_s=12.0)),
        method=Faulty(UniformOptions(k=(2, 40)), folder=str(tmp_path), slow_s=0.05),
        listen=told,
    )
    assert sequence(study) == sequence(serial)
    events = study.storage.events(study.record.id, kinds=["note"])
    events = [event.payload["text"] for event in events]
    assert events == told.notes
    assert ["died" in event for event in events] == [True, False]
    assert "no answer within 12 s" in events[1]


def opened(task_spec, *, method=None, start_timeout_s=240.0, idle_s=60.0, **options):
    from moeash.study.spec.reading import parse_spec

    task = replace(parse_spec(task_spec).task(), n_threads=1)
    if method is not None:
        task = replace(task, method=method)
    times = {"start_timeout_s": start_timeout_s, "idle_s": idle_s}
    return RayBackend(task, BackendOptions("ray", cpus_per_worker=0.5, **options), **times)


def gpus_of(backend):
    """The GPUs each worker is given."""
    return [place.gpus for place in backend.crew.places.values()]


def test_half_a_gpu_puts_two_workers_on_one(local_ray):
    """A whole one: TestRay."""
    backend = opened(spec(), workers=2, gpus_per_worker=0.5)
    try:
        backend.open()
        backend.pool.ensure(2)
        one, other = gpus_of(backend)
    finally:
        backend.close()
    assert one == other


def test_more_gpus_than_any_node_has_is_said_at_once_and_ends(local_ray):
    said = []
    backend = opened(spec(), gpus_per_worker=5, workers=1, start_timeout_s=3.0)
    started = time.monotonic()
    try:
        with pytest.raises(BackendError, match=r"a worker needs 5 GPUs but the largest node has 4"):
            backend.open(said.append)
    finally:
        backend.close()
    assert time.monotonic() - started < 60
    assert said and "a worker needs 5 GPUs" in said[0]


def test_workers_share_one_copy_of_the_factors_made_once(local_ray):
    backend = opened(calibrated(), workers=2)
    try:
        backend.open()
        backend.pool.ensure(2)

        def look(worker):
            import torch

            evaluator = worker.evaluator
            prepared = evaluator.compressor.groundwork.prepared
            # Ray puts less than two KB where there is room, and what is not aligned is copied.
            large = [f.coupling for f in prepared.layers.factors if f.coupling.nbytes > 2048]
            places = [coupling.data_ptr() for coupling in large]
            lines = Path("/proc/self/maps").read_text().splitlines()
            maps = [(*line.split()[0].split("-"), line.split()[1]) for line in lines]
            modes = [
                mode
                for place in places
                for low, high, mode in maps
                if int(low, 16) <= place < int(high, 16)
            ]
            return modes, torch.get_num_threads()

        for modes, n_threads in backend.crew.ask(look):
            # Three of four layers, in memory that all workers map; 'p' would be their own copy.
            assert [mode[3] for mode in modes] == 3 * ["s"]
            assert n_threads == 1
    finally:
        backend.close()


def test_a_released_worker_comes_back(local_ray, serial):
    reference = {r.job.key: r.outcome.metric for r in serial.evaluations() if r.stage == "search"}
    jobs = [r.job for r in serial.evaluations() if r.stage == "search"][:6]
    backend = opened(spec(), workers=(0, 2), idle_s=0.5)

    def one_is_left():
        backend.submit(jobs[0], NOTHING)
        backend.next()
        return backend.workers == 1

    try:
        backend.open()
        for comes_back in (False, True):
            tickets = {backend.submit(job, NOTHING): job for job in jobs}
            backend.pool.ensure(2)
            found = {tickets[ticket].key: outcome for ticket, outcome in map_next(backend, tickets)}
            for job in jobs:
                if found[job.key].metric is not None and reference[job.key] is not None:
                    assert found[job.key].metric == reference[job.key]
            if not comes_back:
                wait_until(one_is_left)
    finally:
        backend.close()


def map_next(backend, tickets):
    return [backend.next() for _ in tickets]


@pytest.mark.parametrize("beats", [True, False])
def test_an_evaluation_that_tells_its_progress_may_take_longer_than_the_timeout(beats, local_ray):
    """Four batches of 1.5 s each against a timeout of 4.5 s, in which the metric says nothing."""
    slow = Path(os.environ["MOEASH_TEST_SLOW_FILE"])
    plain = spec(evaluation__metric="tests.backends.slow:slow_top1")
    plain["evaluation"]["batch_size"] = 50 if beats else 200
    backend = opened(plain, workers=1, timeout_s=4.5, max_tries=1)
    told = []
    try:
        backend.open(progress=lambda *beat: told.append(beat))
        slow.write_text("1.5" if beats else "6")
        backend.submit(Job(_candidate(5)), NOTHING)
        _, outcome = backend.next()
    finally:
        slow.write_text("0")
        backend.close()
    measuring = [
        done for what, done, total in told if what == "k=5: measuring batches" and total == 4
    ]
    if beats:
        assert outcome.status == "complete" and outcome.duration_s > 5
        assert measuring == sorted(set(measuring)) and len(measuring) >= 3
    else:
        assert outcome.status == "failed" and "no answer within 4.5 s" in outcome.error
        assert measuring == []


def test_the_first_workers_preparation_is_heard_by_the_driver(local_ray):
    method = PreparingSlowly(UniformOptions(k=(2, 40)))  # 0.5 s a step; it is asked every 0.1 s
    backend = opened(spec(), method=method, workers=1, timeout_s=0.4)
    told = []
    try:
        backend.open(progress=lambda *beat: told.append(beat[0]))
    finally:
        backend.close()
    assert told[:2] == ["connecting to Ray", "starting the first worker"]
    assert "preparing slowly" in told


def test_data_that_workers_cannot_see_is_one_clear_line(local_ray, tmp_path):
    broken = spec(data__source="npz", data__root=str(tmp_path / "absent"))
    backend = opened(broken, workers=1)
    try:
        with pytest.raises(BackendError) as caught:
            backend.open()
    finally:
        backend.close()
    assert str(tmp_path / "absent") in str(caught.value)
    assert "every node" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_workers_lack_is_one_clear_line(local_ray):
    backend = opened(spec(network={"source": "no_such_module_here:factory"}), workers=1)
    try:
        with pytest.raises(BackendError, match="no_such_module_here") as caught:
            backend.open()
    finally:
        backend.close()
    assert "\n" not in str(caught.value)


def test_other_versions_on_workers_are_one_clear_line(local_ray):
    backend = opened(spec(), workers=1)
    from moeash.backends import ray_crew

    expected = {"moeash": "99.0"}
    try:
        original = ray_crew.versions
        ray_crew.versions = lambda: original() | expected
        with pytest.raises(BackendError, match=r"needs moeash 99\.0 \(here .*same versions"):
            backend.open()
    finally:
        ray_crew.versions = original
        backend.close()


def test_interrupting_a_wait_is_possible(local_ray, tmp_path):
    """Ctrl-C must not hang while a candidate does."""
    hanging = Faulty(UniformOptions(k=(2, 40)), folder=str(tmp_path), fates={5: "hang"})
    backend = opened(spec(), method=hanging, workers=1)
    backend.open()
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    # A shell may start what runs in the background with interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        backend.submit(Job(_candidate(5)), NOTHING)
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.next()
        assert time.monotonic() - started < 30
    finally:
        timer.cancel()
        signal.signal(signal.SIGINT, before)
        backend.close()


def _candidate(k):
    from moeash.core.solutions.recipe import Recipe

    return Recipe.of({"k": k})


class TestRay(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make_backend(cls, local_ray):
        def make(task):
            options = BackendOptions("ray", workers=2, cpus_per_worker=0.5, gpus_per_worker=1)
            return RayBackend(replace(task, n_threads=1), options)

        return make

    @pytest.fixture(scope="class")
    @classmethod
    def reference(cls):
        evaluator = Evaluator(replace(TASK, n_threads=1))
        yield evaluator
        evaluator.close()

    @pytest.fixture(scope="class")
    @classmethod
    def both(cls, backend):
        """The backend with two workers that have each evaluated something."""
        backend.pool.ensure(2)
        list(outcomes(backend, jobs(5, 6, 7, 8), NOTHING))
        return backend

    def test_a_whole_gpu_puts_each_worker_on_its_own(self, both):
        gpus = gpus_of(both)
        assert len(set(gpus)) == 2 and set(gpus) < {"0", "1", "2", "3"}

    def test_ray_keeps_no_process_that_moeash_does_not_use(self, both):
        assert len(list(processes_of_ray(WORKER))) == 2
        assert list(processes_of_ray("IDLE")) == []

    def test_large_arrays_are_in_memory_once_a_node(self, both):
        """Weights, prepared arrays and images of every worker lie in the store that all map."""

        def files(worker):
            evaluator = worker.evaluator
            common, batches = evaluator.common(), []
            hook = evaluator.compressor.network.module.register_forward_pre_hook(
                lambda module, inputs: batches.append(inputs[0].numpy())
            )
            evaluator.assessment.measure(lambda bound: False)
            hook.remove()
            arrays = {
                "state": common.groundwork.state[0].values,
                "prepared": common.groundwork.prepared.statistics.ordered[0],
                "images": common.images,
                "batch": batches[-1],
            }
            lines = Path("/proc/self/maps").read_text().splitlines()
            maps = [line.split(maxsplit=5) for line in lines]
            ranges = [
                ([int(x, 16) for x in m[0].split("-")], m[4], m[5] if len(m) > 5 else "")
                for m in maps
            ]
            found = {}
            for name, array in arrays.items():
                start = array.__array_interface__["data"][0]
                ((_, inode, file),) = [r for r in ranges if r[0][0] <= start < r[0][1]]
                found[name] = (inode, file)
            return found, len(evaluator.splits)

        (one, n_splits), (two, _) = both.crew.ask(files)
        assert {name for name, (_, file) in one.items() if "plasma" in file} == set(one), one
        assert one == two, "both map the same file"
        assert n_splits == 0, "what the first worker has read itself it has let go"

    def test_threads_are_part_of_the_numbers_so_both_backends_pin_them(self, both):
        def look(worker):
            import torch

            return torch.get_num_threads(), torch.get_num_interop_threads()

        assert both.crew.ask(look) == [(1, 1), (1, 1)]


def processes_of_ray(kind):
    """Yield those of this process's Ray that call themselves so."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            is_kind = path.read_bytes().startswith(f"ray::{kind}".encode())
            if is_kind and os.getpid() in ancestors(int(path.parent.name)):
                yield int(path.parent.name)


def ancestors(pid):
    """The processes a process comes from; other studies may have workers on this machine, too."""
    while pid > 1:
        status = Path(f"/proc/{pid}/status").read_text()
        pid = int(re.search(r"PPid:\t(\d+)", status)[1])
        yield pid


class Killer(threading.Thread):
    """Kills the workers of a training once it has stages behind it, and notes every save."""

    def __init__(self, folder, after_stage):
        super().__init__(daemon=True)
        self.folder, self.after_stage = Path(folder), after_stage
        self.saves, self.n_killed, self.ended = {}, 0, threading.Event()
        self._looked_at = {}

    def run(self):
        while not self.ended.wait(0.005):
            for path in self.folder.glob(f"*{SUFFIX}"):
                with contextlib.suppress(FileNotFoundError):
                    self._look(path, path.stat().st_mtime_ns)

    def _look(self, path, written):
        if self._looked_at.get(path) == written:
            return
        self._looked_at[path] = written
        saved = Checkpoint(path.parent, path.stem).read()
        seen = self.saves.setdefault(path.name, [])
        if saved is not None and (saved.stage, saved.done) not in seen[-1:]:
            seen.append((saved.stage, saved.done))
            if saved.stage >= self.after_stage and not self.n_killed:
                self._kill()

    def _kill(self):
        for pid in processes_of_ray(WORKER):
            os.kill(pid, signal.SIGKILL)
            self.n_killed += 1


def test_trainings_whose_workers_are_killed_go_on_where_they_were_saved(local_ray, tmp_path):
    def trained(**changes):
        return spec(
            data__splits__train={"part": "all", "count": 300, "seed": 0},
            method={"name": "wfn", "delta": [0.02, 0.3], "epochs": 2},
            training={"batch_size": 32, "norms": "batch"},
            search={"population": 2},
            budget={"generations": 1},
            merge={"trials": 0},
            **changes,
        )

    alone = run_study(tmp_path, trained(name="alone"))
    plain = trained(backend=on_ray(workers=2))
    killer = Killer(SqlStorage(str(tmp_path / f"{plain['name']}.db")).beside("prepared"), 3)
    killer.start()
    study = run_study(tmp_path, plain)
    killer.ended.set()
    killer.join()
    assert killer.n_killed >= 1, "the trainings ended before they could be killed"
    assert sequence(study) == sequence(alone)
    assert len(killer.saves) == 2
    for saves in killer.saves.values():
        assert saves == sorted(saves), "nobody began again"
        assert len(saves) > 3
