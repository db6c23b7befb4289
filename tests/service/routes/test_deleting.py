"""Studies are deleted over HTTP with all they had, and nothing else goes."""

import time
from pathlib import Path

import pytest

from moeash.launch.base import Export, Launch
from tests.contracts.storage import facts
from tests.service.whole import whole_service
from tests.waiting import wait_until

FAILS = "echo moeash: no images >&2; exit 2"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with whole_service(tmp_path_factory.mktemp("service"), max_running=9) as running:
        processes = running.context.queue.processes
        processes._command = lambda record, folder: ["sh", "-c", FAILS]
        yield running


@pytest.fixture(scope="module")
def operator(service):
    with service.client("operator") as client:
        yield client


def launched(service, asked):
    """A launch that has ended."""
    queue = service.context.queue
    record = queue.enqueue(asked, "ann")
    deadline = time.monotonic() + 120
    while not (record := queue.launches.get(record.id)).ended:
        assert time.monotonic() < deadline, record
        time.sleep(0.05)
    return record


def listed(operator, **wanted):
    return [item["name"] for item in operator.get("/studies", params=wanted).json()["items"]]


@pytest.mark.slow
def test_a_study_that_never_got_as_far_as_being_stored_is_deleted(service, operator):
    record = launched(service, Launch("vain", 'name = "vain"\n'))
    assert listed(operator, status="failed") == ["vain"]
    refused = operator.patch("/studies/vain", json={"archived": True})
    assert refused.status_code == 404
    detail = refused.json()["detail"]
    assert detail == "study 'vain' was never stored: no images; start it again, or delete it"
    assert Path(record.folder).is_dir()
    assert operator.delete("/studies/vain").status_code == 204
    assert (listed(operator), operator.get("/studies/vain").status_code) == ([], 404)
    assert not Path(record.folder).exists()


@pytest.mark.slow
def test_a_deleted_study_does_not_come_back_and_leaves_no_exports_to_the_next(service, operator):
    service.storage.create_study(facts(name="old"))
    records = [launched(service, asked) for asked in (Launch("old", ""), Export("old"))]
    other = launched(service, Launch("other", ""))
    written = service.context.roots.outputs / "old" / "front.csv"
    written.parent.mkdir()
    written.touch()
    operator.patch("/studies/old", json={"archived": True})
    assert operator.delete("/studies/old").status_code == 204
    assert listed(operator) == ["other"] and listed(operator, archived=True) == []
    assert operator.get(f"/exports/{records[1].id}").status_code == 404
    gone = [Path(record.folder) for record in records]
    assert not any(path.exists() for path in (*gone, written.parent))
    assert Path(other.folder).is_dir()
    service.storage.create_study(facts(name="old"))
    assert operator.get("/studies/old/exports").json() == {"items": []}


@pytest.mark.slow
@pytest.mark.parametrize("place", ["precious", "launches/..", "launches/keep", "."])
def test_only_folders_that_were_made_for_launches_go_whatever_a_database_says(
    service, operator, place
):
    record = launched(service, Launch("forged", ""))
    own = service.context.queue.processes.folder
    kept = own / place / "file"
    kept.parent.mkdir(exist_ok=True)
    kept.touch()
    database = service.storage.database.path
    service.storage.database.write(
        None,
        lambda connection: connection.exec_driver_sql(
            "UPDATE launches SET folder = ? WHERE id = ?", (str(own / place), record.id)
        ),
    )
    assert operator.delete("/studies/forged").status_code == 204
    assert kept.is_file() and database.is_file()


@pytest.mark.parametrize("asked", [Launch("busy", ""), Export("busy")], ids=["run", "export"])
@pytest.mark.slow
def test_a_study_of_which_something_runs_is_not_deleted(service, operator, asked):
    service.storage.create_study(facts(name="busy"))
    operator.patch("/studies/busy", json={"archived": True})
    processes = service.context.queue.processes
    before = processes._command
    processes._command = lambda record, folder: ["sleep", "60"]
    record = service.context.queue.enqueue(asked, "ann")
    try:
        refused = operator.delete("/studies/busy")
        assert refused.status_code == 409 and f" {record.id} of study" in refused.json()["detail"]
    finally:
        wait_until(lambda: processes.children)
        for child in processes.children.values():
            child.kill()
        wait_until(lambda: service.context.queue.launches.get(record.id).ended)
        processes._command = before
    assert operator.delete("/studies/busy").status_code == 204
