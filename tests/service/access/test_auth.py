from datetime import timedelta

import pytest

from moeash.errors import InputError
from moeash.service.access.auth import CODE_S, check_bind
from moeash.study.storage.access.secrets import present, written
from moeash.study.storage.access.tokens import Tokens
from moeash.study.storage.tables import SESSIONS, TOKENS
from tests.contracts.access import change
from tests.service.serving import PAGE, Service

SESSION, TOKENS_URL = "/api/v1/session", "/api/v1/tokens"
PAST = written(present() - timedelta(seconds=1))


def logged_in(service, **login):
    client = service.client()
    assert client.post(SESSION, json=login, headers=PAGE).status_code == 200
    return client


def test_who_shows_nothing_is_told_what_to_show(service):
    answer = service.client().get(SESSION)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="moeash"'
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == "/problems/not-logged-in" and problem["title"] == "Unauthorized"
    assert problem["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_a_bearer_token_says_who_asks(service, role):
    answer = service.client().get(SESSION, headers=service.bearer(role))
    assert answer.json() | {"version": ""} == {"name": role, "role": role, "version": ""}


@pytest.mark.parametrize(
    "shown", ["Bearer x", "Bearer ", "Basic YTpi", "Bearer \x80", "bearer moeash_", "moeash_x"]
)
def test_whatever_is_no_token_lets_nobody_in(service, shown):
    service.token("admin")
    answer = service.client().get(SESSION, headers={"Authorization": shown.encode("latin-1")})
    assert answer.status_code == 401


def test_a_revoked_or_expired_token_lets_nobody_in_nor_its_session(service):
    for spoil in (
        lambda: service.auth.tokens.revoke(1),
        lambda: change(service.storage, TOKENS, expires_at=PAST),
    ):
        secret = service.token("admin")
        headers = {"Authorization": f"Bearer {secret}"}
        client = logged_in(service, token=secret)
        assert client.get(SESSION).status_code == 200
        assert service.client().get(SESSION, headers=headers).status_code == 200
        spoil()
        assert client.get(SESSION).status_code == 401
        assert service.client().get(SESSION, headers=headers).status_code == 401
        assert service.client().post(SESSION, json={"token": secret}).status_code == 401


def test_an_expired_session_is_over_and_the_browser_forgets_it(service):
    client = logged_in(service, code=service.auth.login_code())
    change(service.storage, SESSIONS, expires_at=PAST)
    answer = client.get(SESSION)
    assert answer.status_code == 401
    assert answer.headers["set-cookie"].startswith("moeash_session=; Max-Age=0; Path=/")


def test_a_code_logs_in_one_browser_once(service):
    code = service.auth.login_code()
    client = logged_in(service, code=code)
    assert client.get(SESSION).json()["role"] == "admin"
    again = service.client().post(SESSION, json={"code": code}, headers=PAGE)
    assert again.status_code == 401 and "set-cookie" not in again.headers


def test_a_code_that_is_too_old_logs_in_nobody(tmp_path):
    now = 0.0
    service = Service(tmp_path, clock=lambda: now)
    code = service.auth.login_code()
    now = CODE_S + 1
    assert service.client().post(SESSION, json={"code": code}).status_code == 401


def test_codes_of_another_process_or_none_log_in_nobody(service):
    for login in ({"code": "x"}, {"token": "x"}):
        assert service.client().post(SESSION, json=login).status_code == 401
    for login in ({}, {"code": "x", "token": "y"}, {"code": ""}, {"user": "x"}, []):
        answer = service.client().post(SESSION, json=login)
        assert answer.status_code == 422 and answer.json()["errors"], login


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(service):
    login = {"code": service.auth.login_code()}
    answer = service.client().post(SESSION, json=login, headers=PAGE)
    value, *flags = answer.headers["set-cookie"].split("; ")
    assert value.startswith("moeash_session=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(flags) and "Secure" not in flags
    login = {"code": service.auth.login_code()}
    tls = service.client(base="https://127.0.0.1:8642").post(SESSION, json=login)
    assert "Secure" in tls.headers["set-cookie"].split("; ")


def test_logging_out_ends_the_session_for_everybody_who_has_its_cookie(service):
    client = logged_in(service, code=service.auth.login_code())
    cookies = dict(client.cookies)
    assert client.delete(SESSION, headers=PAGE).status_code == 204
    other = service.client(headers={"Cookie": f"moeash_session={cookies['moeash_session']}"})
    assert other.get(SESSION).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (PAGE, 201),
        ({"Origin": PAGE["Origin"]}, 201),
        ({"Sec-Fetch-Site": "same-origin"}, 201),
        ({}, 403),
        ({"Sec-Fetch-Site": "none"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "http://localhost:8642"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": PAGE["Origin"], "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, 403),
    ],
)
def test_only_the_own_page_changes_something_with_a_cookie(service, headers, status):
    client = logged_in(service, code=service.auth.login_code())
    answer = client.post(TOKENS_URL, json={"role": "viewer"}, headers=headers)
    assert answer.status_code == status
    assert len(service.auth.tokens.list()) == (status == 201)


@pytest.mark.parametrize(
    "media_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
)
def test_what_a_form_can_send_changes_nothing_with_a_cookie(service, media_type):
    client = logged_in(service, code=service.auth.login_code())
    answer = client.post(
        TOKENS_URL, content=b'{"role":"viewer"}', headers=PAGE | {"Content-Type": media_type}
    )
    assert answer.status_code in (415, 422) and not service.auth.tokens.list()


def test_a_cookie_reads_nothing_for_other_pages_of_the_same_host(service):
    client = logged_in(service, code=service.auth.login_code())
    assert client.get(SESSION, headers={"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert client.get(SESSION, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert client.get(SESSION, headers={"Sec-Fetch-Site": "none"}).status_code == 200


def test_a_program_needs_no_origin(service):
    answer = service.client().post(
        TOKENS_URL, json={"role": "viewer"}, headers=service.bearer("admin")
    )
    assert answer.status_code == 201


def test_who_fails_too_often_waits_and_others_do_not(service):
    good = service.bearer("viewer")
    bad = {"Authorization": "Bearer nope"}
    client = service.client(address="10.0.0.1")
    assert client.get(SESSION, headers=good).status_code == 200
    statuses = [client.get(SESSION, headers=bad).status_code for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    refused = client.post(SESSION, json={"code": service.auth.login_code()})
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert service.client(address="10.0.0.2").get(SESSION, headers=good).status_code == 200
    assert client.get(SESSION, headers=good).status_code == 200, "was let in before"


def test_an_open_page_whose_session_has_ended_does_not_lock_its_user_out(service):
    stale = service.client(headers={"Cookie": "moeash_session=old"})
    assert [stale.get(SESSION).status_code for _ in range(20)] == [401] * 20
    assert logged_in(service, code=service.auth.login_code())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
def test_what_others_reach_is_not_bound_before_somebody_has_a_token(service, host):
    tokens = Tokens(service.storage.database)
    tokens.create("viewer")
    with pytest.raises(InputError, match="moeash token create --role operator"):
        check_bind(host, tokens)
    record, _ = tokens.create("operator")
    check_bind(host, tokens)
    tokens.revoke(record.id)
    with pytest.raises(InputError, match="there is no token to log in with"):
        check_bind(host, tokens)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_bound_without_tokens(service, host):
    check_bind(host, Tokens(service.storage.database))


def test_what_is_no_host_is_refused(service):
    with pytest.raises(InputError, match="is no address of this machine"):
        check_bind("not a host", Tokens(service.storage.database))
