from moeash.service.access.uploads import Uploads
from moeash.service.routes import files
from tests.service.matrix import wrong_answers
from tests.service.serving import API

NEEDED = {
    ("POST", "/api/v1/session"): None,
    ("GET", "/api/v1/session"): "viewer",
    ("DELETE", "/api/v1/session"): None,
    ("GET", "/api/v1/tokens"): "admin",
    ("POST", "/api/v1/tokens"): "admin",
    ("DELETE", "/api/v1/tokens/{id}"): "admin",
    ("GET", "/api/v1/audit"): "admin",
    ("POST", "/api/v1/files"): "operator",
    ("GET", "/api/v1/files"): "viewer",
}


def test_everybody_may_do_what_the_table_says_and_nothing_else(service, tmp_path):
    uploads = Uploads(tmp_path)
    service.framework.include_router(files.router(service.auth, uploads), prefix=API)
    assert wrong_answers(service, NEEDED, values={"id": "999"}) == []


def test_a_route_that_is_not_in_the_table_or_lets_others_in_is_told(service, tmp_path):
    uploads = Uploads(tmp_path)
    service.framework.include_router(files.router(service.auth, uploads), prefix=API)
    service.framework.add_api_route("/new", lambda: 1, methods=["GET"])
    needed = NEEDED | {("GET", "/api/v1/files"): "admin", ("GET", "/gone"): None}
    lines = wrong_answers(service, needed, values={"id": "999"})
    assert lines[:2] == [
        "('GET', '/new') is not in the table",
        "('GET', '/gone') is in the table and not in the application",
    ]
    assert "GET /api/v1/files as viewer: 200, and needs admin" in lines
