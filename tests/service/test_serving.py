"""`moeash serve` as a person and a script use it, and killed at the worst moments."""

import contextlib
import hashlib
import json
import os
import re
import signal
from pathlib import Path

import httpx
import pytest

from moeash.launch.identity import Identity
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.team.launches import Launches
from tests.conftest import TINY
from tests.forks import MOEASH, Fork
from tests.ports import free_port
from tests.servers import started
from tests.waiting import wait_until

pytestmark = pytest.mark.slow(seconds=13)

SPEC = TINY[: TINY.index("[output]")]
HEAVY = ("torch", "pymoo", "ray", "matplotlib", "pandas", "sklearn")


def longer(name, n):
    """The spec of a study of n evaluations, of some 30 ms each."""
    spec = SPEC.replace('"tiny"', f'"{name}"').replace("k = [6, 16]", f"k = [6, {5 + n}]")
    spec = spec.replace("[0, 60]", "[0, 1500]").replace("[60, 160]", "[1500, 1600]")
    return spec.replace("trials = 2", "trials = 0") + f"[budget]\nevaluations = {n}\n"


class Served:
    """A service in a process of its own, in a folder, which may be killed and started again."""

    def __init__(self, folder, storage=None):
        self.folder = folder
        self.storage = str(storage or folder / "moeash.db")
        made = self.moeash("token", "create", "--role", "operator", "--json")
        token = json.loads(made)["token"]
        self.headers = {"Authorization": f"Bearer {token}"}
        self.port = free_port()  # which it keeps when it is started again
        self.process = None
        self.start()

    def moeash(self, *arguments):
        environ = os.environ | {"MOEASH_STORAGE": self.storage}
        process = Fork(MOEASH, *arguments, cwd=self.folder, env=environ)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out

    def start(self):
        """Serve at the port of the time before."""
        arguments = ("--port", str(self.port), "--storage", self.storage)
        self.process, ready = started(self.folder, *arguments)
        assert ready["url"] == f"http://127.0.0.1:{self.port}/"
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}/api/v1", headers=self.headers, timeout=60
        )
        wait_until(self.is_ready)

    def is_ready(self):
        with contextlib.suppress(httpx.TransportError):
            return self.client.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.client.close()

    def get(self, path, **query):
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path, body=None):
        answer = self.client.post(path, json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def study(self, name):
        return self.get(f"/studies/{name}")

    def until(self, name, *statuses):
        try:
            return wait_until(lambda: (s := self.study(name))["status"] in statuses and s)
        except AssertionError as error:
            log = self.get(f"/studies/{name}/log")
            error.add_note(f"{self.study(name)}\n{log}\n{self.serve_log()}")
            raise

    def serve_log(self):
        return (self.folder / "serve.log").read_text()

    def identity(self, study):
        """The process of a study's last launch."""
        storage = SqlStorage(self.storage)
        try:
            return Identity.read(Launches(storage.database).newest([study])[study].place)
        finally:
            storage.close()

    def under_way(self, name, n=3):
        """Wait until a study has more than n evaluations; return how many."""

        def has_more():
            study = self.study(name)
            assert study["status"] in ("queued", "running"), study
            return study["evaluations"] > n and study["evaluations"]

        return wait_until(has_more)

    def end_studies(self):
        with contextlib.suppress(Exception):
            for item in self.get("/studies")["items"]:
                identity = self.identity(item["name"])
                if identity is not None and identity.is_alive:
                    os.kill(identity.pid, signal.SIGKILL)

    def close(self):
        self.end_studies()
        self.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    service = Served(tmp_path_factory.mktemp("served"))
    yield service
    service.close()


@pytest.fixture
def served(server):
    """The service, which a test may kill if it starts it again; no study of it goes on after."""
    if server.process.poll() is not None:
        server.start()
    yield server
    server.end_studies()


@pytest.fixture
def tiny_study(served):
    """The name of a finished study."""
    if served.client.get("/studies/tiny").status_code == 404:
        served.post("/studies", {"toml": SPEC})
    served.until("tiny", "finished")
    return "tiny"


def events(lines):
    """Yield the events of a stream's lines as (id, kind, data)."""
    event = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        else:
            if "event" in event:
                yield event.get("id"), event["event"], json.loads(event["data"])
            event = {}


def test_the_way_from_a_token_to_a_verified_file(served):
    assert served.client.get(f"http://127.0.0.1:{served.port}/healthz").status_code == 200
    assert served.post("/studies", {"toml": SPEC})["name"] == "tiny"
    seen = []
    with served.client.stream("GET", "/studies/tiny/events", params={"after": 0}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for id_, kind, data in events(answer.iter_lines()):
            assert data["study"] == "tiny"
            if id_ is not None:
                seen.append((int(id_), kind))
            if kind == "ended":
                break
    assert [id_ for id_, _ in seen] == list(range(1, len(seen) + 1))
    study = served.until("tiny", "finished")
    assert [s["name"] for s in served.get("/studies")["items"]].count("tiny") == 1
    assert study["evaluations"] == [kind for _, kind in seen].count("evaluated")

    asked = {"pick": "smallest", "max_drop": 0.3, "formats": ["moeash"]}
    export = served.post("/studies/tiny/exports", asked)["id"]
    done = wait_until(
        lambda: (e := served.get(f"/exports/{export}"))["status"] not in ("queued", "running") and e
    )
    assert done["status"] == "finished", done["error"]
    (file,) = done["files"]
    answer = served.client.get(f"/exports/{export}/files/{file['name']}")
    content = answer.content
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert answer.headers["x-checksum-sha256"] == file["sha256"]
    assert len(content) == file["size_bytes"] == done["report"]["size_bytes"]
    target = served.folder / "downloaded.moeash"
    target.write_bytes(content)
    served.moeash("verify", target)

    for path in ("points", "front", "evaluations", "generations", "pick", "log", "history"):
        served.get(f"/studies/tiny/{path}")
    for kind in ("json", "csv", "parquet"):
        assert served.client.get(f"/studies/tiny/evaluations.{kind}").status_code == 200
    maps = Path("/proc", str(served.process.pid), "maps").read_text()
    loaded = set(re.findall(rf"/site-packages/({'|'.join(HEAVY)})/", maps))
    assert loaded <= {"pandas"}, "only tables are made by pandas"


def test_a_study_outlives_its_server_and_the_next_one_stops_and_continues_it(served):
    # So long that it cannot end while a busy machine starts the server again.
    served.post("/studies", {"toml": longer("outliving", 40_000)})
    n = served.under_way("outliving")
    process = served.identity("outliving")
    served.kill()
    assert process.is_alive
    served.start()
    assert served.study("outliving")["status"] == "running"
    served.under_way("outliving", n)
    served.post("/studies/outliving/stop")
    stopped = served.until("outliving", "interrupted")
    assert n < stopped["evaluations"] < 40_000
    wait_until(lambda: not process.is_alive)
    served.post("/studies/outliving/start", {})
    served.under_way("outliving", stopped["evaluations"])
    served.post("/studies/outliving/stop")
    assert served.until("outliving", "interrupted")["evaluations"] > stopped["evaluations"]


def test_a_killed_study_says_so_with_its_last_line_and_continues(served):
    # So long that it cannot end before it is killed, however busy the machine is.
    served.post("/studies", {"toml": longer("killed", 40_000)})
    served.under_way("killed")
    os.kill(served.identity("killed").pid, signal.SIGKILL)
    crashed = served.until("killed", "crashed")
    assert "signal 9; it said last: " in crashed["reason"]

    served.post("/studies/killed/start", {})
    wait_until(lambda: "continuing after" in served.get("/studies/killed/log")["text"])
    process = served.identity("killed")
    os.kill(served.process.pid, signal.SIGKILL)
    os.kill(process.pid, signal.SIGKILL)
    served.kill()
    served.start()
    crashed = served.until("killed", "crashed")
    assert "ended without a word; it said last: " in crashed["reason"]
    served.post("/studies/killed/start", {})
    served.under_way("killed", crashed["evaluations"])


def test_an_export_outlives_its_server(served, tiny_study):
    first = served.post("/studies/tiny/exports", {})["id"]
    wait_until(lambda: served.get(f"/exports/{first}")["status"] == "running")
    # This one may have been started or not.
    second = served.post("/studies/tiny/exports", {"pick": "best"})["id"]
    served.kill()
    served.start()
    for export in (first, second):
        done = wait_until(
            lambda e=export: (
                (d := served.get(f"/exports/{e}"))["status"] not in ("queued", "running") and d
            )
        )
        assert (done["status"], done["error"]) == ("finished", None)
        (file,) = done["files"]
        content = served.client.get(f"/exports/{export}/files/{file['name']}").content
        assert hashlib.sha256(content).hexdigest() == file["sha256"]


def test_a_killed_export_is_told_and_has_no_files(served, tiny_study):
    export = served.post("/studies/tiny/exports", {})["id"]
    wait_until(lambda: served.get(f"/exports/{export}")["status"] == "running")
    storage = SqlStorage(served.folder / "moeash.db")
    launches = Launches(storage.database)
    process = wait_until(lambda: Identity.read(launches.get(export).place))
    storage.close()
    served.kill()
    os.kill(process.pid, signal.SIGKILL)
    served.start()
    done = wait_until(lambda: (e := served.get(f"/exports/{export}"))["status"] == "failed" and e)
    assert "ended without a word" in done["error"] and done["files"] == []


def test_a_server_ends_within_seconds_though_streams_are_open(served):
    served.post("/studies", {"toml": longer("long", 40_000)})
    served.under_way("long", 0)
    with contextlib.ExitStack() as stack:
        for path in ("/events", "/studies/long/events", "/studies/long/log/stream"):
            answer = stack.enter_context(served.client.stream("GET", path))
            assert answer.status_code == 200
        served.process.terminate()
        assert served.process.wait(timeout=60) == 0
        assert "timeout graceful shutdown exceeded" not in (served.folder / "serve.log").read_text()
    assert served.identity("long").is_alive, "the study goes on"
    served.kill()
    served.start()
