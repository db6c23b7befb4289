"""Logs and cluster over HTTP, of launches that are any command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from moeash.launch.base import Export, Launch
from moeash.service.access import streams
from tests.service.whole import whole_service
from tests.waiting import wait_until

LINE = 'echo "begun $MOEASH_LAUNCH"; while [ ! -e end ]; do sleep 0.1; done; echo "ключ done"'


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with whole_service(tmp_path_factory.mktemp("service")) as running:
        processes = running.context.queue.processes
        processes._command = lambda record, folder: ["sh", "-c", LINE]
        yield running
        for child in processes.children.values():
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def viewer(service):
    with service.client("viewer") as client:
        yield client


@pytest.fixture
def launch(service):
    """Starts a study of this name, and returns how to end it."""
    queue = service.context.queue

    def start(name):
        record = queue.enqueue(Launch(name, f'name = "{name}"\n'), "ann")
        wait_until(lambda: queue.launches.get(record.id).folder)
        return lambda: Path(queue.launches.get(record.id).folder, "end").touch()

    return start


@pytest.mark.slow
def test_a_log_is_read_in_parts_until_it_has_ended(viewer, launch):
    end = launch("one")
    first = wait_until(lambda: (p := viewer.get("/studies/one/log").json())["text"] and p)
    assert first["text"] == f"begun {first['launch']}\n" and not first["ended"]
    more = viewer.get("/studies/one/log", params={"from": first["next"]}).json()
    assert (more["text"], more["next"], more["ended"]) == ("", first["next"], False)
    end()

    def rest():
        part = viewer.get("/studies/one/log", params={"from": first["next"]}).json()
        return part["text"] and part

    part = wait_until(rest)
    assert part["text"] == "ключ done\n"

    def last():
        return viewer.get("/studies/one/log", params={"from": part["next"]}).json()

    wait_until(lambda: last()["ended"])
    assert last()["text"] == ""
    again = launch("one")  # prints anew, below where the other had come to
    fresh = wait_until(lambda: (p := last())["launch"] != part["launch"] and p["text"] and p)
    assert fresh["text"].startswith("begun")
    again()


def events(stream):
    kind, id_ = None, None
    for line in stream.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            id_ = value
        elif name == "event":
            kind = value
        elif name == "data":
            yield kind, id_, json.loads(value)


@pytest.mark.slow
def test_a_log_is_streamed_to_its_end_and_a_reader_that_comes_back_misses_nothing(viewer, launch):
    end = launch("two")
    with viewer.stream("GET", "/studies/two/log/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        kind, id_, data = next(events(stream))
        assert (kind, data["text"].split()[0]) == ("log", "begun")
    end()
    header = {"Last-Event-ID": id_}
    with viewer.stream("GET", "/studies/two/log/stream", headers=header) as stream:
        rest = list(events(stream))
    assert [kind for kind, _, _ in rest] == ["log", "ended"]
    assert rest[0][2]["text"] == "ключ done\n"


@pytest.mark.slow
def test_the_log_of_an_export_is_streamed_and_its_last_line_is_what_it_does(service, viewer):
    queue = service.context.queue
    record = queue.enqueue(Export("five"), "ann")
    url = f"/exports/{record.id}"
    assert viewer.get(url).json()["doing"] is None
    running = wait_until(lambda: (job := viewer.get(url).json())["doing"] and job)
    assert (running["status"], running["doing"]) == ("running", f"begun {record.id}")
    with viewer.stream("GET", f"{url}/log/stream") as stream:
        kind, id_, data = next(events(stream))
        assert (kind, data["text"]) == ("log", f"begun {record.id}\n")
    Path(queue.launches.get(record.id).folder, "end").touch()
    header = {"Last-Event-ID": id_}
    with viewer.stream("GET", f"{url}/log/stream", headers=header) as stream:
        rest = list(events(stream))
    assert [(kind, data.get("text")) for kind, _, data in rest] == [
        ("log", "ключ done\n"),
        ("ended", None),
    ]
    assert viewer.get(url).json()["doing"] is None
    assert viewer.get("/exports/999/log/stream").status_code == 404


@pytest.mark.slow
def test_a_log_ends_when_its_readers_token_is_revoked(service, launch, monkeypatch):
    monkeypatch.setattr(streams, "LOOK_S", 0)
    token, secret = service.context.auth.tokens.create("viewer")
    end = launch("secret")
    try:
        with (
            service.client() as client,
            client.stream(
                "GET",
                "/studies/secret/log/stream",
                headers={"Authorization": f"Bearer {secret}"},
            ) as stream,
        ):
            told = events(stream)
            assert next(told)[2]["text"].startswith("begun")
            service.context.auth.tokens.revoke(token.id)
            end()
            assert list(told) == []
    finally:
        end()


def test_a_study_that_nobody_launched_has_no_log_and_an_unknown_one_is_404(viewer, service, tiny):
    assert viewer.get("/studies/no/log").status_code == 404
    assert viewer.get("/studies/no/log/stream").status_code == 404
    with service.client() as nobody:
        assert nobody.get("/studies/one/log").status_code == 401
    shutil.copy(tiny.storage, service.storage.database.path.with_name("tiny.db"))
    folder = service.storage.database.path.parent / "other"
    folder.mkdir()
    place = service.storage.database.path.with_name("tiny.db")
    with whole_service(folder, storage=place) as other, other.client("viewer") as client:
        part = client.get("/studies/tiny/log").json()
        with client.stream("GET", "/studies/tiny/log/stream") as stream:
            assert [kind for kind, _, _ in events(stream)] == ["ended"]
    assert part == {"text": "", "next": 0, "ended": True, "launch": None}


@pytest.mark.slow
def test_the_cluster_shows_what_runs_what_waits_and_its_machine(viewer, service, launch):
    end = launch("three")
    queue = service.context.queue
    waiting = queue.enqueue(replace(Launch("four", ""), study="four"), "bob")
    shown = viewer.get("/cluster").json()
    (running,) = shown["running"]
    assert (running["study"], running["kind"], running["requested_by"]) == ("three", "run", "ann")
    assert (shown["launcher"], shown["max_running"]) == ("process", 1)
    (next_,) = shown["queue"]
    assert (next_["id"], next_["position"], next_["requested_by"]) == (waiting.id, 1, "bob")
    machine = shown["host"]
    assert machine["name"] == running["host"] and machine["cores"] >= 1
    assert 0 < machine["free_memory_bytes"] < machine["memory_bytes"]
    queue.stop("four")
    end()
    wait_until(lambda: not viewer.get("/cluster").json()["running"])
