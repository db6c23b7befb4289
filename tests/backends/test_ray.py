"""The Ray backend against the in-process one: the same sequence, whatever happens to workers."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from moeash.backends.inprocess import InProcessBackend
from moeash.backends.ray import RayBackend, RayOptions, check_address
from moeash.errors import BackendError
from moeash.evaluation.outcome import Archive, Job
from tests.backends.studies import Faulty, Notes, front, pids, run_study, sequence, spec, tries

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

MARGIN_BYTES = 4 << 30  # what a hog may take before the memory monitor acts


def used_fraction(extra):
    values = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    total, free = (int(values[name].split()[0]) << 10 for name in ("MemTotal", "MemAvailable"))
    return (total - free + extra) / total


@pytest.fixture(scope="module")
def local_ray(ray_environment):
    """One Ray for the module, with four made-up GPUs and a memory monitor that is easily upset."""
    import ray

    touchy = {
        "RAY_memory_usage_threshold": f"{used_fraction(MARGIN_BYTES):.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    os.environ.update(touchy)
    ray.init(
        num_cpus=4,
        num_gpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=128 << 20,
    )
    yield
    ray.shutdown()
    for name in touchy:
        del os.environ[name]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """The reference: the same study in this process."""
    return run_study(tmp_path_factory.mktemp("serial"), spec())


def on_ray(**changes):
    return {"kind": "ray", "workers": 2, "start_timeout_s": 120.0, **changes}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_stored_sequence_is_that_of_one_process(workers, local_ray, serial, tmp_path):
    study = run_study(tmp_path, spec(backend=on_ray(workers=workers)))
    assert sequence(study) == sequence(serial)
    assert front(study) == front(serial)
    assert any(r.stage == "merged" for r in study.evaluations())


def calibrated(**changes):
    """The same study with error feedback, on calibration images."""
    return spec(
        data__splits__calibration={"part": "all", "count": 60, "seed": 0},
        method={"name": "feedback", "k": [4, 40], "images": 60, "sketches": 1, "batch_size": 30},
        search={"population": 6, "stop": {"generations": 2}},
        **changes,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_with_feedback_has_the_front_of_one_process(workers, local_ray, tmp_path):
    alone = run_study(tmp_path, calibrated(name="alone"))
    study = run_study(tmp_path, calibrated(backend=on_ray(workers=workers)))
    assert sequence(study) == sequence(alone)
    assert front(study) == front(alone) != []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_losing_a_worker_changes_nothing(number, local_ray, serial, tmp_path):
    progress = Notes({6: lambda: os.kill(min(pids(tmp_path)), number)})
    study = run_study(
        tmp_path,
        spec(backend=on_ray(timeout_s=6.0)),
        method=Faulty(k=(2, 40), folder=str(tmp_path), slow_s=0.05),
        progress=progress,
    )
    assert sequence(study) == sequence(serial)
    events = [event.text for event in study.storage.events(study.record.id)]
    assert events == progress.notes
    assert len(events) == 1
    assert ("died" if number == signal.SIGKILL else "no answer within 6 s") in events[0]


def test_every_fault_in_one_study_is_accounted_for(local_ray, tmp_path):
    """Poison, hang, raise, flaky and out of memory: each bounded, each named, innocents intact."""
    linear = spec(
        search__population=12,
        search__stop={"generations": 1},
        search__algorithm="exhaustive",
        method={"name": "uniform", "k": [2, 13]},
        merge={"enabled": False},
        evaluation__max_drop=None,
    )
    fates = {3: "poison", 5: "hang", 7: "raise", 9: "flaky", 11: "hog"}
    faulty = Faulty(k=(2, 13), folder=str(tmp_path), fates=fates)
    study = run_study(
        tmp_path, linear | {"backend": on_ray(timeout_s=12.0, max_tries=2)}, method=faulty
    )
    (tmp_path / "clean").mkdir()
    clean = run_study(tmp_path / "clean", linear)

    got = {int(r.candidate["k"]): r.outcome for r in study.evaluations()}
    assert sorted(got) == list(range(2, 14)), "every candidate has an outcome"
    errors = {k: o.error for k, o in got.items() if o.status == "failed"}
    assert sorted(errors) == [3, 5, 7, 11]
    # Ray may also kill a neighbour of the hog; that is named, and not counted as a try.
    assert all(error.startswith(("gave up after", "ValueError")) for error in errors.values())
    assert errors[3].count("died") == 2
    assert "no answer within 12 s (2 times)" in errors[5]
    assert not any("\n" in error for error in errors.values())
    assert errors[7] == "ValueError: this candidate raises"
    assert "ran out of memory" in errors[11]
    assert tries(tmp_path, 3) >= 2 and tries(tmp_path, 7) >= 1 and tries(tmp_path, 9) >= 2
    assert all(o.metric is None and o.bound is None for o in got.values() if o.status == "failed")
    reference = {int(r.candidate["k"]): r.outcome for r in clean.evaluations()}
    for k in set(got) - set(errors):
        same = ("metric", "status", "fingerprint", "sizes")
        assert [getattr(got[k], n) for n in same] == [getattr(reference[k], n) for n in same], k
    failed = {r.number for r in study.evaluations() if r.outcome.status == "failed"}
    assert not failed & {s.id for s in study.front()}


def opened(task_spec, **options):
    from dataclasses import replace

    from moeash.study.spec import parse_spec

    task = replace(parse_spec(task_spec).task(), n_threads=1)
    return RayBackend(task, RayOptions(cpus_per_worker=0.5, start_timeout_s=60.0, **options))


def test_half_a_gpu_puts_two_workers_on_one(local_ray):
    backend = opened(spec(), gpus_per_worker=0.5, max_workers=3)
    try:
        backend.open()
        backend.pool.ensure(3)
        gpus = [place.gpus for place in backend.crew.places.values()]
        assert sorted(gpus.count(gpu) for gpu in set(gpus)) == [1, 2]
    finally:
        backend.close()


def test_a_whole_gpu_puts_each_worker_on_its_own(local_ray):
    backend = opened(spec(), gpus_per_worker=1, max_workers=2)
    try:
        backend.open()
        backend.pool.ensure(2)
        gpus = [place.gpus for place in backend.crew.places.values()]
        assert len(set(gpus)) == 2 and set(gpus) < {"0", "1", "2", "3"}
    finally:
        backend.close()


def test_more_gpus_than_any_node_has_is_said_at_once_and_ends(local_ray):
    said = []
    backend = opened(spec(), gpus_per_worker=5, max_workers=1)
    backend._options = RayOptions(gpus_per_worker=5, max_workers=1, start_timeout_s=3.0)
    started = time.monotonic()
    try:
        with pytest.raises(BackendError, match=r"a worker needs 5 GPUs but the largest node has 4"):
            backend.open(said.append)
    finally:
        backend.close()
    assert time.monotonic() - started < 20
    assert said and "a worker needs 5 GPUs" in said[0]


def test_workers_share_one_read_only_copy_of_the_prepared_arrays(local_ray):
    import ray

    backend = opened(spec(), max_workers=2)
    try:
        backend.open()
        backend.pool.ensure(2)

        def look(worker):
            arrays = worker._evaluator.prepared.statistics.ordered
            return [a.flags.writeable for a in arrays], [a.flags.owndata for a in arrays]

        for actor in backend.crew._actors.values():
            writeable, owned = ray.get(actor.__ray_call__.remote(look))
            assert writeable and not any(writeable) and not any(owned)
    finally:
        backend.close()


def test_workers_share_one_copy_of_the_factors_made_once(local_ray):
    import ray

    backend = opened(calibrated(), max_workers=2)
    try:
        backend.open()
        backend.pool.ensure(2)

        def look(worker):
            import torch

            evaluator = worker._evaluator
            places = [f.coupling.data_ptr() for f in evaluator.prepared.networks[0].factors]
            lines = Path("/proc/self/maps").read_text().splitlines()
            maps = [(*line.split()[0].split("-"), line.split()[1]) for line in lines]
            modes = [
                mode
                for place in places
                for low, high, mode in maps
                if int(low, 16) <= place < int(high, 16)
            ]
            return modes, torch.get_num_threads()

        for actor in backend.crew._actors.values():
            modes, n_threads = ray.get(actor.__ray_call__.remote(look))
            # Four layers, in memory that all workers map; 'p' would be a copy of their own.
            assert [mode[3] for mode in modes] == 4 * ["s"]
            assert n_threads == 1
    finally:
        backend.close()


def test_released_workers_come_back(local_ray, serial):
    reference = {r.job.key: r.outcome.metric for r in serial.evaluations() if r.stage == "search"}
    jobs = [r.job for r in serial.evaluations() if r.stage == "search"][:6]
    backend = opened(spec(), max_workers=2, release_idle=True)
    try:
        backend.open()
        for _ in range(2):
            found = dict(backend.map(jobs, Archive(("size_bytes",))))
            assert backend.workers == 0
            for position, job in enumerate(jobs):
                if found[position].metric is not None and reference[job.key] is not None:
                    assert found[position].metric == reference[job.key]
    finally:
        backend.close()


def test_data_that_workers_cannot_see_is_one_clear_line(local_ray, tmp_path):
    broken = spec(data__source="npz", data__root=str(tmp_path / "absent"))
    backend = opened(broken, max_workers=1)
    try:
        with pytest.raises(BackendError) as caught:
            backend.open()
    finally:
        backend.close()
    assert str(tmp_path / "absent") in str(caught.value)
    assert "every node" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_workers_lack_is_one_clear_line(local_ray):
    backend = opened(spec(network={"source": "no_such_module_here:factory"}), max_workers=1)
    try:
        with pytest.raises(BackendError, match="no_such_module_here") as caught:
            backend.open()
    finally:
        backend.close()
    assert "\n" not in str(caught.value)


def test_other_versions_on_workers_are_one_clear_line(local_ray):
    backend = opened(spec(), max_workers=1)
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


def test_interrupting_a_wait_is_possible(local_ray):
    """Ctrl-C must not hang while a candidate does."""
    backend = opened(spec(), max_workers=1)
    backend.open()
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    try:
        backend.pool._crew.call = lambda worker, payload: None  # accepted and never answered
        backend.submit(Job(_candidate(5)), Archive(("size_bytes",)))
        timer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            backend.next()
        assert time.monotonic() - started < 5
    finally:
        timer.cancel()
        backend.close()


def _candidate(k):
    from moeash.core.candidate import Candidate

    return Candidate.of({"k": k})


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "127.0.0.1:9",
            r"no Ray answers at 127\.0\.0\.1:9 \(Connection refused\); start one there",
        ),
        ("no-such-host.invalid:6379", "no Ray answers at no-such-host"),
        ("nowhere", "is not auto and not HOST:PORT"),
        ("ray://127.0.0.1:10001", "is a URL; give HOST:PORT"),
        ("127.0.0.1:99999", "no Ray answers"),
    ],
)
def test_a_wrong_address_is_one_line_within_seconds(address, message):
    started = time.monotonic()
    with pytest.raises(BackendError, match=message) as caught:
        check_address(address)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 10


def test_threads_are_part_of_the_numbers_so_both_backends_pin_them(local_ray):
    import ray

    backend = opened(spec(), max_workers=1)
    try:
        backend.open()

        def look(worker):
            import torch

            return torch.get_num_threads(), torch.get_num_interop_threads()

        (actor,) = backend.crew._actors.values()
        assert ray.get(actor.__ray_call__.remote(look)) == (1, 1)
    finally:
        backend.close()


def test_in_process_tickets_behave_like_ray_ones():
    from moeash.study.spec import parse_spec

    backend = InProcessBackend(parse_spec(spec()).task())
    backend.open()
    try:
        archive = Archive(("size_bytes",))
        tickets = [backend.submit(Job(_candidate(k)), archive) for k in (3, 4, 5)]
        backend.cancel(tickets[1])
        assert [backend.next()[0], backend.next()[0]] == [tickets[0], tickets[2]]
    finally:
        backend.close()
