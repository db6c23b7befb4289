"""The service on PostgreSQL: restarted under it, and shared with another service."""

import contextlib
import itertools
import threading

import pytest

from moeash.errors import StorageError
from moeash.study.events import Note
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import facts
from tests.service.test_serving import events, longer
from tests.service.whole import whole_service
from tests.study.storage.server import postgres_server
from tests.waiting import wait_until

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def server():
    with postgres_server() as running:
        yield running


def stored(storage, study_id, notes):
    """Store notes; a database that was restarted is asked again, as a study asks it."""

    def work():
        with contextlib.suppress(StorageError):
            storage.add_events(study_id, notes)
            return True

    wait_until(work)


def test_streams_outlive_a_restart_of_the_database_and_miss_nothing(server, tmp_path):
    writer = SqlStorage(server.url)
    study = writer.create_study(facts(name="notes")).id
    heard, everything = [], threading.Event()
    with (
        whole_service(tmp_path, storage=server.url) as service,
        service.client("viewer", timeout=120) as client,
    ):
        connected = threading.Event()

        def listen():
            with client.stream("GET", "/studies/notes/events", params={"after": 0}) as answer:
                connected.set()
                for id_, _, data in events(answer.iter_lines()):
                    heard.append((int(id_), data["text"]))
                    if data["text"] == "last":
                        everything.set()
                        return

        listener = threading.Thread(target=listen)
        listener.start()
        assert connected.wait(120)
        numbers = itertools.count()
        for mode in ("fast", "immediate"):
            stored(writer, study, [Note(str(next(numbers))) for _ in range(20)])
            server.stop(mode)
            ready = client.get(f"{service.url}/readyz")
            assert (ready.status_code, ready.json()["status"]) == (503, "storage does not answer")
            refused = client.get("/studies")
            assert (refused.status_code, refused.json()["type"]) == (503, "/problems/storage")
            server.start()
            wait_until(lambda: client.get(f"{service.url}/readyz").status_code == 200)
            stored(writer, study, [Note(str(next(numbers))) for _ in range(20)])
        stored(writer, study, [Note("last")])
        assert everything.wait(120)
        listener.join()
        assert client.get("/studies").json()["total"] == 1
    assert [text for _, text in heard] == [*map(str, range(80)), "last"]
    assert [id_ for id_, _ in heard] == sorted({id_ for id_, _ in heard})
    writer.close()


def test_two_services_share_a_database(server, tmp_path):
    with (
        whole_service(tmp_path / "a", storage=server.url) as a,
        whole_service(tmp_path / "b", storage=server.url) as b,
        a.client("operator", timeout=60) as at_a,
        b.client("operator", timeout=60) as at_b,
    ):
        answer = at_a.post("/studies", json={"toml": longer("shared", 400)})
        assert answer.status_code == 202
        assert at_b.get("/studies/shared").json()["status"] in ("queued", "running")
        wait_until(lambda: at_b.get("/studies/shared").json()["evaluations"] > 3)
        for client in (at_a, at_b):
            kinds = []
            with client.stream("GET", "/studies/shared/events", params={"after": 0}) as stream:
                for id_, kind, _ in events(stream.iter_lines()):
                    if id_ is not None:
                        kinds.append(kind)
                    if kind == "evaluated":
                        break
            assert kinds[0] == "opened"
        assert at_b.post("/studies/shared/stop").status_code == 202
        wait_until(lambda: at_a.get("/studies/shared").json()["status"] == "interrupted")
        assert at_b.get("/studies/shared").json()["status"] == "interrupted"
        running = [service.context.queue.processes.children for service in (a, b)]
        wait_until(lambda: not any(running))


def test_addresses_of_texts_that_the_database_cannot_hold_are_refused(server, tmp_path):
    with whole_service(tmp_path, storage=server.url) as service, service.client("admin") as client:
        for path in ("", "/front", "/evaluations", "/exports"):
            answer = client.get(f"/studies/a%00b{path}")
            assert answer.status_code == 400, f"{path}: {answer.text}"
            assert "null character" in answer.json()["detail"]
        assert client.patch("/studies/a%00b", json={"notes": "x"}).status_code == 400
        for query in ({"search": "a\0b"}, {"tag": "a\0b"}):
            assert client.get("/studies", params=query).status_code == 400
        created = client.post("/tokens", json={"name": "a\0b", "role": "viewer"})
        assert created.status_code < 500, created.text
