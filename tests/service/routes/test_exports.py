"""Exports over HTTP: real ones of a small study, and what is refused."""

import hashlib
import shutil
import time

import pytest

from tests.service.whole import whole_service


@pytest.fixture(scope="module")
def service(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    shutil.copy(tiny.storage, folder / "moeash.db")
    with whole_service(folder) as running:
        yield running
        children = running.context.queue.processes.children
        for child in children.values():
            child.kill()
            child.wait()


@pytest.fixture(scope="module")
def operator(service):
    with service.client("operator") as client:
        yield client


@pytest.fixture(scope="module")
def finished(operator):
    """An export as it was answered when it had ended."""
    asked = {"pick": "smallest", "max_drop": 0.5, "formats": ["moeash"]}
    answer = operator.post("/studies/tiny/exports", json=asked)
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] in ("queued", "running")
    return ended(operator, answer.headers["location"].removeprefix("/api/v1"))


def ended(client, path, patience_s=120):
    deadline = time.monotonic() + patience_s
    while True:
        job = client.get(path).json()
        if job["status"] in ("finished", "failed"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)


def problem(answer, status, text):
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
    assert text in answer.json()["detail"]


@pytest.mark.slow
def test_an_export_says_what_was_verified_and_its_file_is_the_one_it_names(operator, finished):
    assert (finished["status"], finished["error"]) == ("finished", None)
    (file,) = finished["files"]
    assert finished["report"]["holdout"]["n_images"] == 100
    assert finished["report"]["path"] == finished["inspection"]["file"] == file["name"]
    assert finished["inspection"]["tensors"]
    answer = operator.get(f"/exports/{finished['id']}/files/{file['name']}")
    assert answer.status_code == 200 and len(answer.content) == file["size_bytes"]
    digest = hashlib.sha256(answer.content).hexdigest()
    assert digest == file["sha256"] == answer.headers["x-checksum-sha256"]
    assert file["name"] in answer.headers["content-disposition"]
    assert finished["report"]["size_bytes"] == file["size_bytes"]


@pytest.mark.slow
def test_a_file_is_downloaded_in_parts_and_not_twice(operator, finished):
    (file,) = finished["files"]
    url = f"/exports/{finished['id']}/files/{file['name']}"
    whole = operator.get(url)
    tag = {"If-Range": whole.headers["etag"]}
    rest = operator.get(url, headers={"Range": "bytes=100-", **tag})
    assert (rest.status_code, rest.content) == (206, whole.content[100:])
    other = operator.get(url, headers={"Range": "bytes=100-", "If-Range": '"another"'})
    assert (other.status_code, other.content) == (200, whole.content)
    refused = operator.get(url, headers={"Range": "bytes=9999999-"})
    assert refused.status_code == 416
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.headers["content-range"] == f"bytes */{file['size_bytes']}"
    assert "'bytes=9999999-'" in refused.json()["detail"]
    same = operator.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


@pytest.mark.slow
def test_nothing_but_the_files_of_the_export_can_be_downloaded(operator, finished):
    for name in ("report.json", "spec.toml", "..%2Flog", "%2e%2e%2f%2e%2e%2fmoeash.db", "x"):
        answer = operator.get(f"/exports/{finished['id']}/files/{name}")
        assert answer.status_code == 404, name
    problem(operator.get("/exports/99/files/x"), 404, "no export 99")


@pytest.mark.slow
def test_exports_of_a_study_are_listed_oldest_first(operator, finished):
    items = operator.get("/studies/tiny/exports").json()["items"]
    assert finished in items  # others of this file may have come before it
    assert [item["id"] for item in items] == sorted(item["id"] for item in items)
    log = operator.get(f"/exports/{finished['id']}/log")
    said = log.text.splitlines()
    number = finished["report"]["solution"]["id"]
    assert f"building solution {number}" in said  # read by those who wait for it
    assert "writing and verifying tiny.moeash" in said
    assert log.headers["content-type"].startswith("text/plain") and "exported solution" in log.text


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"pick": "smallest", "id": 1}, "id names one solution"),
        ({"pick": "largest"}, "smallest"),
        ({"max_bytes": 1}, "no solution"),
        ({"id": 999}, "999"),
        ({"formats": ["exe"]}, "moeash"),
        ({"formats": []}, "at least 1"),
        ({"to": "/etc/passwd"}, "is not known here"),
        ({"allow_modules": ["os"]}, "is not known here"),
    ],
    ids=str,
)
def test_what_cannot_be_exported_is_refused_before_anything_starts(operator, service, asked, text):
    before = len(service.context.queue.launches.of_study("tiny", "export"))
    problem(operator.post("/studies/tiny/exports", json=asked), 422, text)
    assert len(service.context.queue.launches.of_study("tiny", "export")) == before


@pytest.mark.slow
def test_who_only_looks_exports_nothing_and_what_is_not_there_is_404(service, operator, finished):
    with service.client("viewer") as viewer:
        assert viewer.post("/studies/tiny/exports", json={}).status_code == 403
        assert viewer.get(f"/exports/{finished['id']}").json() == finished
    with service.client() as nobody:
        assert nobody.get(f"/exports/{finished['id']}").status_code == 401
    problem(operator.post("/studies/no/exports", json={}), 404, "no study 'no'")
    problem(operator.get("/studies/no/exports"), 404, "no study 'no'")
    problem(operator.get("/exports/99"), 404, "no export 99")
