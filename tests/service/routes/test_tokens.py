import pytest

TOKENS, AUDIT = "/api/v1/tokens", "/api/v1/audit"
ROUTES = [
    ("GET", TOKENS),
    ("POST", TOKENS),
    ("DELETE", TOKENS + "/1"),
    ("GET", AUDIT),
]


@pytest.mark.parametrize("route", ROUTES, ids=" ".join)
@pytest.mark.parametrize(("role", "status"), [(None, 401), ("viewer", 403), ("operator", 403)])
def test_only_admins_see_and_change_tokens(service, route, role, status):
    headers = {} if role is None else service.bearer(role)
    body = {"json": {"role": "admin"}} if route[0] == "POST" else {}
    before = [(token.id, token.state) for token in service.auth.tokens.list()]
    answer = service.client().request(*route, headers=headers, **body)
    assert answer.status_code == status
    assert [(token.id, token.state) for token in service.auth.tokens.list()] == before


def test_a_token_that_was_made_lets_in_until_it_is_revoked(service):
    admin, client = service.bearer("admin"), service.client()
    body = {"name": "ci", "role": "operator", "expires_days": 2}
    answer = client.post(TOKENS, json=body, headers=admin)
    made = answer.json()
    assert answer.status_code == 201 and made["expires_at"] and made["role"] == "operator"
    own = {"Authorization": f"Bearer {made['token']}"}
    assert client.get("/api/v1/session", headers=own).json()["name"] == "ci"
    listed = client.get(TOKENS, headers=admin)
    assert made["token"] not in listed.text
    assert [(t["name"], t["state"]) for t in listed.json()["items"]] == [
        ("admin", "valid"),
        ("ci", "valid"),
    ]
    assert client.delete(f"{TOKENS}/{made['id']}", headers=admin).status_code == 204
    assert client.get("/api/v1/session", headers=own).status_code == 401
    assert client.get(TOKENS, headers=admin).json()["items"][1]["state"] == "revoked"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "role"),
        ({"role": "root"}, "role"),
        ({"role": "viewer", "name": ""}, "name"),
        ({"role": "viewer", "name": "x" * 201}, "name"),
        ({"role": "viewer", "expires_days": -1}, "expires_days"),
        ({"role": "viewer", "expires_days": "soon"}, "expires_days"),
        ({"role": "viewer", "colour": 1}, "colour"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(service, body, path):
    answer = service.client().post(TOKENS, json=body, headers=service.bearer("admin"))
    assert answer.status_code == 422
    assert [fault["path"] for fault in answer.json()["errors"]] == [path]


def test_a_name_that_no_token_can_have_is_told_too(service):
    body = {"role": "viewer", "name": "a\nb"}
    answer = service.client().post(TOKENS, json=body, headers=service.bearer("admin"))
    assert answer.status_code == 422 and "printable" in answer.json()["detail"]


def test_a_token_that_is_not_there_is_not_found(service):
    admin = service.bearer("admin")
    assert service.client().delete(TOKENS + "/99", headers=admin).status_code == 404
    assert service.client().delete(TOKENS + "/x", headers=admin).status_code == 422
    assert service.client().delete(f"{TOKENS}/{2**70}", headers=admin).status_code == 422


def test_the_audit_is_read_in_pages(service):
    admin, client = service.bearer("admin"), service.client()
    for n in range(5):
        client.post(TOKENS, json={"role": "viewer", "name": f"t{n}"}, headers=admin)
    first = client.get(AUDIT, params={"limit": 3}, headers=admin).json()
    rest = client.get(AUDIT, params={"limit": 3, "after": first["next"]}, headers=admin).json()
    ids = [row["id"] for row in first["items"] + rest["items"]]
    assert ids == sorted(ids, reverse=True) and len(ids) == 5 and rest["next"] is None
    assert first["items"][0]["action"] == "POST /api/v1/tokens"
