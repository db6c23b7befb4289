"""What a stranger's script is told of its mistakes: what came, what was needed, what to do."""

import pytest

from tests.service.whole import whole_service


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with (
        whole_service(tmp_path_factory.mktemp("service")) as running,
        running.client("operator") as client,
    ):
        yield client


JSON = {"Content-Type": "application/json"}
MISTAKES = {
    "no such place": ("GET", "/nothing", {}, 404, ["/api/v1/nothing", "openapi.json"]),
    "not so": ("PUT", "/studies", {}, 405, ["PUT is not for /api/v1/studies", "GET"]),
    "no type": ("POST", "/studies", {"content": b"{}"}, 422, ["Content-Type: application/json"]),
    "no JSON": (
        "POST",
        "/studies",
        {"content": b"{", "headers": JSON},
        422,
        ["no JSON", "at character 1"],
    ),
    "missing": ("POST", "/studies", {"json": {}}, 422, ["toml: is missing"]),
    "unknown": ("POST", "/specs/check", {"json": {"toml": "", "x": 1}}, 422, ["x: is not known"]),
    "of a choice": ("GET", "/studies?sort=size", {}, 422, ["sort: 'size' came", "'updated'"]),
    "too small": ("GET", "/studies?limit=0", {}, 422, ["limit: '0' came", "than or equal to 1"]),
    "no export": ("GET", "/exports/9", {}, 404, ["no export 9", "/api/v1/studies/NAME/exports"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_what_came_and_what_is_needed(client, mistake):
    method, path, sent, status, words = MISTAKES[mistake]
    answer = client.request(method, path, **sent)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    detail = answer.json()["detail"]
    assert [each for each in words if each not in detail] == [], detail


def test_what_came_is_repeated_in_part_when_it_is_long(client):
    detail = client.get("/studies", params={"sort": "x" * 190}).json()["detail"]
    assert len(detail) < 200 and "xxx... came" in detail


def test_a_study_cannot_be_posted_without_being_started(client):
    """Whoever wants a spec checked alone asks for that."""
    answer = client.post("/studies", json={"toml": "", "start": False})
    assert answer.json()["errors"] == [{"path": "start", "text": "is not known here"}]
