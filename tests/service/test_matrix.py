"""Who may do what: every route of the service, by everybody."""

import httpx
import pytest

from moeash.service.app import create_app, parts
from moeash.service.settings import Settings
from tests.service.matrix import wrong_answers
from tests.service.serving import real_server

STUDY = "/api/v1/studies/{name}"
NEEDED = {
    ("GET", "/healthz"): None,
    ("GET", "/readyz"): None,
    ("POST", "/api/v1/session"): None,
    ("DELETE", "/api/v1/session"): None,
    ("GET", "/api/v1/session"): "viewer",
    ("GET", "/metrics"): "viewer",
    ("GET", "/api/v1/studies"): "viewer",
    ("POST", "/api/v1/studies"): "operator",
    ("GET", STUDY): "viewer",
    ("PATCH", STUDY): "operator",
    ("DELETE", STUDY): "operator",
    ("POST", f"{STUDY}/start"): "operator",
    ("POST", f"{STUDY}/stop"): "operator",
    ("GET", f"{STUDY}/front"): "viewer",
    ("GET", f"{STUDY}/points"): "viewer",
    ("GET", f"{STUDY}/timeline"): "viewer",
    ("GET", f"{STUDY}/evaluations"): "viewer",
    ("GET", f"{STUDY}/evaluations.{{kind}}"): "viewer",
    ("GET", f"{STUDY}/generations"): "viewer",
    ("GET", f"{STUDY}/solutions/{{number}}"): "viewer",
    ("GET", f"{STUDY}/pick"): "viewer",
    ("GET", f"{STUDY}/events"): "viewer",
    ("GET", f"{STUDY}/history"): "viewer",
    ("GET", f"{STUDY}/log"): "viewer",
    ("GET", f"{STUDY}/log/stream"): "viewer",
    ("POST", f"{STUDY}/clone"): "operator",
    ("POST", f"{STUDY}/exports"): "operator",
    ("GET", f"{STUDY}/exports"): "viewer",
    ("GET", "/api/v1/events"): "viewer",
    ("GET", "/api/v1/exports/{id}"): "viewer",
    ("GET", "/api/v1/exports/{id}/files/{file}"): "viewer",
    ("GET", "/api/v1/exports/{id}/log"): "viewer",
    ("GET", "/api/v1/exports/{id}/log/stream"): "viewer",
    ("GET", "/api/v1/cluster"): "viewer",
    ("POST", "/api/v1/specs/check"): "viewer",
    ("POST", "/api/v1/specs/toml"): "viewer",
    ("GET", "/api/v1/schema"): "viewer",
    ("GET", "/api/v1/templates"): "viewer",
    ("POST", "/api/v1/files"): "operator",
    ("GET", "/api/v1/files"): "viewer",
    ("DELETE", "/api/v1/files/{file}"): "operator",
    ("GET", "/api/v1/tokens"): "admin",
    ("POST", "/api/v1/tokens"): "admin",
    ("DELETE", "/api/v1/tokens/{id}"): "admin",
    ("GET", "/api/v1/audit"): "admin",
}


@pytest.fixture
def whole(tmp_path):
    """The parts of a service, a way to ask it, and its description."""
    settings = Settings(storage=str(tmp_path / "a.db"), folder=tmp_path / "files")
    context = parts(settings)
    with real_server(create_app(context, settings)) as port:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def ask(method, path, headers, body):
                with client.stream(method, path, headers=headers, json=body) as answer:
                    return answer.status_code

            yield context, ask, client.get("/api/v1/openapi.json").json()
        context.tail.end()


@pytest.mark.slow
def test_everybody_may_do_what_the_table_says_and_nothing_else(whole):
    context, ask, openapi = whole

    def bearer(role):
        return {"Authorization": f"Bearer {context.auth.tokens.create(role)[1]}"}

    values = {"id": "999", "name": "none"}
    assert wrong_answers(openapi, ask, bearer, NEEDED, values=values) == []
    assert context.auth.tokens.list()[-1].state == "valid", "nobody's token was revoked"


def test_a_route_that_is_not_in_the_table_or_lets_others_in_is_told():
    openapi = {"paths": {"/new": {"get": {}}, "/open/{id}": {"get": {}, "parameters": []}}}
    needed = {("GET", "/open/{id}"): "admin", ("GET", "/gone"): None}
    seen = []

    def ask(method, path, headers, body):
        seen.append((path, headers))
        return 200

    lines = wrong_answers(openapi, ask, lambda role: {"role": role}, needed, values={"id": "7"})
    assert lines == [
        "('GET', '/new') is not in the table",
        "('GET', '/gone') is in the table and not in the application",
        *(
            f"GET /open/{{id}} as {role}: 200, and needs admin"
            for role in (None, "viewer", "operator")
        ),
    ]
    assert seen[0] == ("/open/7", {}) and seen[3] == ("/open/7", {"role": "admin"})
