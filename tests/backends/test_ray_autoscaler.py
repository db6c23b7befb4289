"""Ray's own autoscaler, with made-up nodes on this machine: workers that wait are its demand."""

import json
import os
from dataclasses import replace

import pytest

from moeash.backends.inprocess import InProcessBackend
from moeash.backends.options import BackendOptions
from moeash.backends.ray import RayBackend
from moeash.study.spec.reading import parse_spec
from tests.backends.cluster import Cluster, wait_until
from tests.backends.studies import spec
from tests.contracts.backend import NOTHING, jobs, timeless
from tests.contracts.outcomes import outcomes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
]

EMPTY = ("auth", "file_mounts")
NONE = (
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def configuration(port):
    """A head without CPUs, and up to two nodes of one CPU that leave after six idle seconds."""
    small = {"CPU": 1, "object_store_memory": 80 << 20}
    return {
        "cluster_name": "made-up",
        "max_workers": 2,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 0.1,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "small": {"resources": small, "node_config": {}, "min_workers": 0, "max_workers": 2},
        },
        "file_mounts_sync_continuously": False,
        **{name: {} for name in EMPTY},
        **{name: [] for name in NONE},
    }


@pytest.fixture
def cluster(ray_environment, tmp_path):
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    path = tmp_path / "cluster.yaml"

    def write(port):
        path.write_text(json.dumps(configuration(port)))  # JSON is YAML
        return [f"--autoscaling-config={path}"]

    cluster = Cluster(environment, head_cpus=0, more=write)
    yield cluster
    cluster.close()


def test_a_cluster_grows_with_the_workers_a_study_waits_for_and_shrinks_without(cluster):
    import ray

    task = replace(parse_spec(spec()).task(), n_threads=1)
    wanted = jobs(3, 17, 40, 5)
    reference = InProcessBackend(task)
    reference.open()
    expected = {n: timeless(o) for n, o in outcomes(reference, wanted, NOTHING)}
    reference.close()

    def n_nodes():
        return sum(node["Alive"] for node in ray.nodes())

    options = BackendOptions("ray", cluster.address, workers=(0, 2))
    backend = RayBackend(task, options, idle_s=3.0)
    try:
        backend.open()
        for grows_again in (False, True):
            tickets = {backend.submit(job, NOTHING): n for n, job in enumerate(wanted)}
            backend.pool.ensure(2)
            assert n_nodes() == 3, "two workers of one CPU each need two nodes beside the head"
            got = dict(backend.next() for _ in wanted)
            assert {tickets[t]: timeless(o) for t, o in got.items()} == expected

            def one_node_left():
                """One worker is kept busy meanwhile: the other has nothing to do."""
                backend.submit(wanted[0], NOTHING)
                backend.next()
                return n_nodes() == 2

            if not grows_again:
                wait_until(one_node_left)
    finally:
        backend.close()
