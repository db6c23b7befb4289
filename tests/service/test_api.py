"""The routes about studies and their results, on a study that is stored and rests."""

import io
import json
import socket
import time
from dataclasses import replace

import pandas as pd
import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.recipe import Merge, Recipe
from moeash.evaluation.outcome import Job, Outcome
from moeash.service.access import streams
from moeash.service.serving import listening
from moeash.study.events import Note
from moeash.study.spec.reading import spec_of_text
from moeash.study.storage.records import GenerationRecord
from moeash.study.study import Study
from tests.contracts.storage import FAILED, STOPPED, add, facts
from tests.marks import slow
from tests.service.whole import whole_service

TOML = """
name = "digits"
[network]
source = "digits-cnn"
[data]
source = "digits"
splits.search = { part = "all", count = 450, seed = 0 }
[evaluation]
max_drop = 0.4
"""
SPEC = spec_of_text(TOML).to_dict()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with whole_service(tmp_path_factory.mktemp("service")) as running:
        storage = running.storage
        study = storage.create_study(facts(spec=SPEC, baseline=0.9, original_bytes=4000))
        points = [(0.85, 400), (0.8, 300), (0.6, 100), (0.4, 50), (0.7, 350)]
        for number, (metric, size) in enumerate(points, start=1):
            outcome = Outcome("complete", metric, metric, Sizes(size, 9, 2.5), f"{number}", 1, 0.1)
            add(storage, study, number, outcome=outcome, generation=1 + number // 4)
        merged = Job(Recipe.of({"k": 2}, Merge((1, 2))))
        outcome = Outcome("complete", 0.8, 0.8, Sizes(290, 8, 2.4), "6", 1, 0.1)
        add(storage, study, 6, outcome=outcome, stage="merged", parent=2, job=merged)
        add(storage, study, 7, outcome=STOPPED)
        add(storage, study, 8, outcome=FAILED)
        for index in (1, 2):
            storage.put_generation(study.id, GenerationRecord(index, index / 4, 3, 2, 5, 0.5))
        storage.add_events(study.id, [Note("hello")])
        storage.set_status(study.id, "finished", ending="generations")
        yield running


@pytest.fixture(scope="module")
def viewer(service):
    with service.client("viewer") as client:
        yield client


@pytest.fixture(scope="module")
def operator(service):
    with service.client("operator") as client:
        yield client


def get(client, path, **query):
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_list_has_what_a_person_looks_for(viewer):
    page = get(viewer, "/studies", status="finished", search="DIG")
    (item,) = page["items"]
    assert (page["next"], page["total"]) == (None, 1)
    assert (item["evaluations"], item["complete"], item["stopped"], item["failed"]) == (8, 6, 1, 1)
    assert (item["smallest_bytes"], item["sparkline"]) == (100, [0.25, 0.5])
    assert (item["max_drop"], item["method"], item["status"]) == (0.4, "uniform", "finished")
    assert get(viewer, "/studies", status="running")["items"] == []


def test_the_front_is_that_of_the_command_line_now_and_then(service, viewer):
    study = Study(service.storage, "digits")
    front = get(viewer, "/studies/digits/front")
    assert [s["id"] for s in front["items"]] == [s.id for s in study.front()] == [3, 6, 1]
    assert front["hypervolume"] == 0.5
    solution = front["items"][1]
    assert solution["text"] == "k=2, merged to 2 entries" and solution["parent"] == 2
    assert solution["ratio"] == pytest.approx(4000 / 290) and solution["on_front"]
    before = get(viewer, "/studies/digits/front", generation=1)
    assert [s["id"] for s in before["items"]] == [3, 2, 1] and before["hypervolume"] == 0.25


def test_points_are_columns_and_only_newer_ones_come_again(viewer):
    points = get(viewer, "/studies/digits/points")
    assert points["numbers"] == [1, 2, 3, 4, 5, 6, 7]
    assert points["status"][-1] == "stopped" and points["metric"][-1] == STOPPED.bound
    assert points["size_bytes"][2] == 100 and points["stage"][5] == "merged"
    assert (points["front"], points["last"], points["total"]) == ([1, 3, 6], 8, 7)
    assert get(viewer, "/studies/digits/points", after=5)["numbers"] == [6, 7]
    tag = viewer.get("/studies/digits/points").headers["etag"]
    again = viewer.get("/studies/digits/points", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_evaluations_come_by_pages_filters_and_order(viewer):
    page = get(viewer, "/studies/digits/evaluations", sort="metric", order="desc", limit=4)
    assert [e["id"] for e in page["items"]] == [1, 2, 6, 5]
    rest = get(
        viewer,
        "/studies/digits/evaluations",
        sort="metric",
        order="desc",
        limit=4,
        after=page["next"],
    )
    assert ([e["id"] for e in rest["items"]], rest["next"]) == ([3, 4], None)
    (failed,) = get(viewer, "/studies/digits/evaluations", status="failed")["items"]
    assert failed["error"] == FAILED.error and failed["metric"] is None
    on_front = get(viewer, "/studies/digits/evaluations", front=True)["items"]
    assert [e["id"] for e in on_front] == [1, 3, 6]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_tables_hold_what_python_shows(service, viewer, kind):
    answer = viewer.get(f"/studies/digits/evaluations.{kind}")
    assert f"evaluations.{kind}" in answer.headers["content-disposition"]
    data = io.BytesIO(answer.content)
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[kind]
    frame = read(data)
    expected = Study(service.storage, "digits").to_dataframe()
    assert list(frame.columns) == list(expected.columns) and len(frame) == 8
    assert frame["size_bytes"].dropna().tolist() == expected["size_bytes"].dropna().tolist()


def test_a_pick_is_the_command_lines_and_says_which(viewer):
    pick = get(viewer, "/studies/digits/pick", how="smallest", max_drop=0.15)
    assert pick["solution"]["id"] == 6 and pick["reason"] is None
    assert pick["command"] == (
        "moeash export digits --pick smallest --max-drop 0.15 --to digits.moeash"
    )
    # Six digits of a limit would be another limit.
    exact = get(viewer, "/studies/digits/pick", max_drop=0.15000000000000002)["command"]
    assert " --max-drop 0.15000000000000002 " in exact
    assert get(viewer, "/studies/digits/pick", how="best")["solution"]["id"] == 1
    none = get(viewer, "/studies/digits/pick", max_bytes=10)
    assert none["solution"] is None and "no solution within 10 bytes" in none["reason"]


def test_a_solution_names_what_it_was_made_of(viewer):
    solution = get(viewer, "/studies/digits/solutions/6")
    assert [parent["id"] for parent in solution["parents"]] == [2]
    for number, text in ((8, "evaluation 8 of 'digits' was failed"), (99, "no evaluation 99")):
        answer = viewer.get(f"/studies/digits/solutions/{number}")
        assert answer.status_code == 422 and text in answer.json()["detail"]


def test_history_comes_by_pages_and_kinds(viewer):
    page = get(viewer, "/studies/digits/history", limit=3)
    assert len(page["items"]) == 3
    rest = get(viewer, "/studies/digits/history", after=page["next"], limit=100)
    kinds = [e["kind"] for e in page["items"] + rest["items"]]
    assert kinds.count("evaluated") == 8 and kinds[-1] == "note" and rest["next"] is None
    notes = get(viewer, "/studies/digits/history", kind=["note", "nonsense"])["items"]
    assert [e["text"] for e in notes] == ["hello"]
    (last,) = get(viewer, "/studies/digits/history", newest=True, limit=1)["items"]
    assert last["text"] == "hello"


def test_what_is_said_of_a_study_is_kept_and_found(service, operator, viewer):
    said = {"notes": "# good", "tags": ["paper", "a b"], "pins": [3, 1]}
    answer = operator.patch("/studies/digits", json=said)
    assert answer.status_code == 200
    detail = get(viewer, "/studies/digits")
    assert (detail["notes"], detail["tags"], detail["pins"]) == ("# good", ["a b", "paper"], [3, 1])
    assert operator.patch("/studies/digits", json={"tags": ["x"]}).json()["notes"] == "# good"
    assert [s["name"] for s in get(viewer, "/studies", tag="x")["items"]] == ["digits"]
    assert get(viewer, "/studies", tag="paper")["items"] == []
    assert operator.patch("/studies/digits", json={"stars": 5}).status_code == 422


def test_only_an_archived_study_that_rests_is_deleted(service, operator, viewer):
    storage = service.storage
    storage.create_study(facts(name="old"))
    refused = operator.delete("/studies/old")
    assert refused.status_code == 409 and "archive it first" in refused.json()["detail"]
    operator.patch("/studies/old", json={"archived": True})
    assert "old" not in [s["name"] for s in get(viewer, "/studies")["items"]]
    assert [s["name"] for s in get(viewer, "/studies", archived=True)["items"]] == ["old"]
    with storage.lock("old"):
        assert operator.delete("/studies/old").status_code == 409
    assert operator.delete("/studies/old").status_code == 204
    gone = viewer.get("/studies/old")
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")


def test_a_study_that_is_not_there_has_near_names_and_no_place(service, viewer):
    problem = viewer.get("/studies/digit").json()
    assert "no study 'digit' in the storage" in problem["detail"]
    assert service.storage.url not in str(problem)
    assert (problem["status"], problem["type"]) == (404, "/problems/no-such-study")
    assert "nearest: 'digits'" in problem["detail"] and problem["request_id"]


def test_specs_are_checked_by_the_command_lines_code(viewer):
    good = viewer.post("/specs/check", json={"toml": f"{TOML}[search]\npopulation = 3\n"})
    assert good.json()["valid"], good.text
    assert good.json()["spec"]["search"] == {"population": 3}
    bad = viewer.post("/specs/check", json={"toml": 'name = "x"\n[search]\npopulaton = 3\n'}).json()
    assert not bad["valid"] and any("populaton" in e["text"] for e in bad["errors"])
    broken = viewer.post("/specs/check", json={"toml": "name ="}).json()
    assert not broken["valid"] and broken["spec"] is None
    written = viewer.post(
        "/specs/toml", json={"spec": {"name": "x", "seed": None, "search": {"population": 4}}}
    )
    assert written.json() == {"toml": 'name = "x"\n\n[search]\npopulation = 4\n'}
    names = [t["name"] for t in get(viewer, "/templates")["items"]]
    assert names[0] == "digits" and "cifar10-resnet20" in names
    assert "properties" in get(viewer, "/schema")


@pytest.mark.parametrize("name", [slow("café"), "名前", slow("исследование"), "x+y"])
def test_a_study_of_any_name_is_where_the_answer_says(tmp_path, name):
    with whole_service(tmp_path, max_running=0) as running, running.client("admin") as client:
        created = client.post("/studies", json={"toml": TOML.replace("digits", name, 1)})
        assert created.status_code == 202, created.text
        assert created.json()["name"] == name
        found = client.get(f"{running.url}{created.headers['Location']}")
        assert (found.status_code, found.json()["name"]) == (200, name)


def test_a_name_of_another_study_is_refused_before_anything_starts(service, operator):
    answer = operator.post("/studies", json={"toml": TOML})
    assert answer.status_code == 409 and "is another one" in answer.json()["detail"]
    assert service.context.studies.launches.active() == []


def test_events_come_to_a_page_that_listens(service, viewer):
    study = service.storage.study("digits")
    with viewer.stream("GET", "/studies/digits/events", params={"after": 0}) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines, found = stream.iter_lines(), []
        wrote = False
        deadline = time.monotonic() + 120
        while len(found) < 12 and time.monotonic() < deadline:
            line = next(lines)
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == 11 and not wrote:
                service.storage.add_events(study.id, [Note("new")])
                wrote = True
    assert {event["study"] for event in found} == {"digits"}
    assert found[-1]["text"] == "new" and found[0]["status"] == "complete"


def test_a_study_that_waits_is_shown_and_has_nothing_yet(service, viewer, monkeypatch):
    monkeypatch.setattr(service.context.queue, "max_running", 0)
    service.context.studies.launches.add("run", "later", {"spec": TOML}, "somebody")
    try:
        (item,) = get(viewer, "/studies", search="later")["items"]
        assert item["status"] == "queued" and item["network"] == "digits-cnn"
        assert get(viewer, "/studies/later")["toml"] == TOML
        for path in ("front", "evaluations", "generations", "history"):
            assert get(viewer, f"/studies/later/{path}")["items"] == []
        assert get(viewer, "/studies/later/points")["numbers"] == []
        assert viewer.get("/studies/later/pick").status_code == 404
        assert viewer.get("/studies/never/front").status_code == 404
    finally:
        service.context.queue.stop("later")


def test_documents_are_compressed_and_streams_are_not(viewer):
    compressed = viewer.get("/schema", headers={"Accept-Encoding": "gzip"})
    assert compressed.headers["content-encoding"] == "gzip" and "properties" in compressed.json()
    plain = viewer.get("/schema", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers and plain.json() == compressed.json()
    with viewer.stream("GET", "/studies/digits/events", params={"after": 0}) as stream:
        assert "content-encoding" not in stream.headers


def test_a_stream_ends_when_its_readers_token_is_revoked(service, monkeypatch):
    monkeypatch.setattr(streams, "LOOK_S", 0)
    tokens, study = service.context.auth.tokens, service.storage.study("digits")
    token, secret = tokens.create("viewer")
    with (
        service.client() as client,
        client.stream(
            "GET", "/studies/digits/events", headers={"Authorization": f"Bearer {secret}"}
        ) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        tokens.revoke(token.id)
        service.storage.add_events(study.id, [Note("not for everybody")])
        assert "not for everybody" not in "".join(lines)


def test_small_answers_are_not_held_back():
    with listening("127.0.0.1", 0) as listener:
        # What asyncio asks before it switches the delay off.
        assert (listener.type, listener.proto) == (socket.SOCK_STREAM, socket.IPPROTO_TCP)


def test_the_service_says_that_it_lives_and_can_work(service):
    with service.client() as nobody:
        for path in ("/healthz", "/readyz"):
            assert nobody.get(service.url + path).json() == {"status": "ok"}
        assert nobody.get("/studies").status_code == 401


def test_a_timeline_has_a_row_for_every_worker(service, viewer):
    study = service.storage.create_study(facts(name="worked"))
    for number, worker in enumerate(("1@a", "2@a", "1@a"), start=1):
        ended = f"2026-01-02T03:04:0{number}.000+00:00"
        outcome = Outcome("complete", 0.5, 0.5, Sizes(9, 9, 2.5), f"{number}", 1, 1.0)
        add(service.storage, study, number, outcome=replace(outcome, worker=worker, ended_at=ended))
    got = get(viewer, "/studies/worked/timeline")
    assert [(r["worker"], r["number"]) for r in got["items"]] == [("1@a", [1, 3]), ("2@a", [2])]
    assert got["items"][0]["utilisation"] == pytest.approx(2 / 3) and got["length_s"] == 3
    points = get(viewer, "/studies/worked/points")
    assert (points["worker"], points["workers"]) == ([0, 1, 0], ["1@a", "2@a"])
    (first, *_) = get(viewer, "/studies/worked/evaluations")["items"]
    assert (first["worker"], first["ended_at"]) == ("1@a", "2026-01-02T03:04:01.000+00:00")
    assert get(viewer, "/studies/digits/timeline")["lost"] == 8
