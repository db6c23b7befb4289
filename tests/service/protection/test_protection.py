"""What stands before the application, over real sockets where that matters."""

import contextlib
import json
import logging
import socket
import threading
import time

import httpx
import pytest

from moeash.service.protection.bodies import BodyLimits
from moeash.service.protection.connections import PatientForAWhile
from moeash.service.protection.logs import JsonLines, mention
from moeash.service.protection.origins import allowed_hosts
from tests.service.serving import PAGE, Service, real_server

SESSION, TOKENS = "/api/v1/session", "/api/v1/tokens"


# ---------------------------------------------------------------------- names and origins


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8642",
        "127.0.0.1",
        "localhost:1",
        "LOCALHOST",
        "localhost.",
        "[::1]:8642",
        "[::1]",
    ],
)
def test_the_service_answers_to_its_own_names(service, host):
    assert service.client().get(SESSION, headers={"Host": host}).status_code == 401


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8642",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "127.0.0.1:8642@evil.example",
        "127.0.0.1:x",
        "127.0.0.1:",
        "[::1",
        "::1",
        "0.0.0.0:8642",
        "",
        "localhost, evil.example",
    ],
)
def test_a_name_that_was_made_to_lead_here_is_not_answered(service, host):
    headers = service.bearer("admin") | {"Host": host}
    answer = service.client().get(SESSION, headers=headers)
    assert answer.status_code == 421
    assert answer.json()["type"] == "/problems/unknown-host"
    assert "--allow-host" in answer.json()["detail"]


def test_hosts_are_what_is_bound_and_what_is_allowed():
    assert allowed_hosts("10.0.0.5", ["Moeash.Example.", "fe80::1"]) == {
        "localhost",
        "127.0.0.1",
        "[::1]",
        "10.0.0.5",
        "moeash.example",
        "[fe80::1]",
    }
    assert allowed_hosts("0.0.0.0") == allowed_hosts("::") == allowed_hosts("127.0.0.1")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8642.evil.example"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "http://127.0.0.1:99999999"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_others_changes_nothing_whatever_it_shows(service, headers):
    code = service.auth.login_code()
    for body, shown in (({"code": code}, {}), ({"role": "viewer"}, service.bearer("admin"))):
        url = SESSION if "code" in body else TOKENS
        answer = service.client().post(url, json=body, headers=headers | shown)
        assert answer.status_code == 403
        assert answer.json()["type"] == "/problems/foreign-origin"
    assert service.client().post(SESSION, json={"code": code}, headers=PAGE).status_code == 200


def test_a_page_behind_a_proxy_that_speaks_tls_is_the_own_page(service):
    for origin, host, status in (
        ("https://127.0.0.1", "127.0.0.1", 200),
        ("https://127.0.0.1", "127.0.0.1:443", 200),
        ("https://127.0.0.1", "127.0.0.1:80", 403),
    ):
        answer = service.client().post(
            SESSION,
            json={"code": service.auth.login_code()},
            headers={"Origin": origin, "Host": host},
        )
        assert answer.status_code == status, (origin, host)


def test_no_other_origin_is_ever_told_that_it_may_read(service):
    answer = service.client().request(
        "OPTIONS",
        TOKENS,
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert not any(name.startswith("access-control") for name in answer.headers)


# ---------------------------------------------------------------------- headers


def test_every_answer_tells_browsers_what_not_to_do(service):
    client = service.client()
    answers = [
        client.get(SESSION, headers=service.bearer("viewer")),
        client.get(SESSION),
        client.get("/nothing"),
        client.get(SESSION, headers={"Host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 404, 421]
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert len(answer.headers["x-request-id"]) == 32
    assert answers[0].headers["cache-control"] == "no-store"


def test_the_page_runs_its_own_scripts_only(service):
    from fastapi.responses import HTMLResponse

    service.framework.add_api_route("/", lambda: HTMLResponse("<p>"), methods=["GET"])
    policy = service.client().get("/").headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    assert "unsafe-eval" not in policy and "http" not in policy
    assert "unsafe-inline" not in policy


# ---------------------------------------------------------------------- bodies


def test_a_body_that_is_too_large_is_refused_told_or_not(tmp_path):
    service = Service(tmp_path, limits=BodyLimits(n_bytes=1000))
    admin = service.bearer("admin")
    with real_server(service.app) as port:
        url = f"http://127.0.0.1:{port}{TOKENS}"
        big = b'{"role": "viewer", "name": "' + b"x" * 2000 + b'"}'
        told = httpx.post(
            url, content=big, headers=admin | {"Content-Type": "application/json"}, timeout=60
        )
        untold = httpx.post(
            url,
            content=iter([big]),
            headers=admin | {"Content-Type": "application/json"},
            timeout=60,
        )
        fits = httpx.post(url, json={"role": "viewer"}, headers=admin, timeout=60)
    assert [told.status_code, untold.status_code, fits.status_code] == [413, 413, 201]
    assert untold.json()["type"] == "/problems/body-too-large"
    assert len(service.auth.tokens.list()) == 2
    service.close()


def exchange(port, *pieces, pause=0.0, timeout=10.0):
    """Send pieces; return all that comes back until the server closes, and how long it took."""
    began, received = time.monotonic(), []

    def listen(connection):
        with contextlib.suppress(ConnectionError):
            while piece := connection.recv(65536):
                received.append(piece)

    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        # What came before the server closed is lost once something is sent after that.
        listener = threading.Thread(target=listen, args=[connection])
        listener.start()
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
        listener.join()
    return b"".join(received), time.monotonic() - began


def head(port, length):
    return (
        f"POST {SESSION} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def test_a_body_that_drips_is_given_up(tmp_path):
    service = Service(tmp_path, limits=BodyLimits(grace_s=0.3, bytes_per_s=1000))
    with real_server(service.app) as port:
        received, seconds = exchange(port, head(port, 500), *[b" "] * 8, pause=0.1)
        assert received.startswith(b"HTTP/1.1 408 ") and b"/problems/body-too-slow" in received
        assert b"connection: close" in received.lower() and seconds < 5
    service.close()


@pytest.mark.slow
def test_a_stream_that_waits_for_its_reader_is_not_given_up(tmp_path):
    from fastapi.responses import StreamingResponse

    async def pieces():
        import anyio

        for _ in range(6):
            await anyio.sleep(0.1)
            yield b"x"

    service = Service(tmp_path, limits=BodyLimits(grace_s=0.1))
    service.framework.add_api_route("/s", lambda: StreamingResponse(pieces()), methods=["POST"])
    with real_server(service.app) as port:
        assert httpx.post(f"http://127.0.0.1:{port}/s", timeout=60).content == b"xxxxxx"
        assert httpx.post(f"http://127.0.0.1:{port}/s", json={}, timeout=60).content == b"xxxxxx"
    service.close()


# ---------------------------------------------------------------------- connections


class Hasty(PatientForAWhile):
    headers_s = 0.4


@pytest.mark.parametrize(
    "pieces",
    [[], [b"GET / HT"], [b"GET / HTTP/1.1\r\n", *[b"X: y\r\n"] * 6]],
    ids=["silent", "half a line", "a header now and then"],
)
def test_a_connection_that_does_not_say_what_it_wants_is_closed(service, pieces):
    with real_server(service.app, http=Hasty) as port:
        received, seconds = exchange(port, *pieces, pause=0.1)
        assert received == b"" and seconds < 3


@pytest.mark.slow
def test_a_second_request_that_drips_is_closed_and_a_prompt_one_is_answered(service):
    request = b"GET /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with real_server(service.app, http=Hasty) as port:
        received, _ = exchange(port, request, request, request[:9], *[b"x"] * 8, pause=0.1)
        assert received.count(b"HTTP/1.1 401") == 2


@pytest.mark.slow
def test_an_answer_may_take_longer_than_headers(tmp_path):
    service = Service(tmp_path)

    def slow():
        time.sleep(0.8)
        return "done"

    service.framework.add_api_route("/slow", slow, methods=["GET"])
    with real_server(service.app, http=Hasty) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/slow", timeout=60).json() == "done"
    service.close()


def test_forwarded_addresses_are_not_believed(service):
    with real_server(service.app) as port:
        headers = service.bearer("admin") | {"X-Forwarded-For": "9.9.9.9"}
        url = f"http://127.0.0.1:{port}{TOKENS}"
        assert (
            httpx.post(url, json={"role": "viewer"}, headers=headers, timeout=60).status_code == 201
        )
    assert service.audit.page()[0].address == "127.0.0.1"


def test_there_are_no_websockets(service):
    request = (
        b"GET /api/v1/session HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n\r\n"
    )
    with real_server(service.app, http=Hasty, timeout_keep_alive=1) as port:
        received, _ = exchange(port, request)
    assert b" 101 " not in received


# ---------------------------------------------------------------------- log and audit


@pytest.fixture
def lines(caplog):
    """The log of requests as it is written."""

    class Lines(logging.Handler):
        def __init__(self):
            super().__init__()
            self.found = []
            self.setFormatter(JsonLines())

        def emit(self, record):
            self.found.append(json.loads(self.format(record)))

    handler = Lines()
    logger = logging.getLogger("moeash")
    logger.addHandler(handler)
    with caplog.at_level(logging.INFO, logger="moeash"):
        yield handler.found
    logger.removeHandler(handler)


def test_every_request_is_a_line_of_json_with_what_it_is_about(service, lines):
    def work(name: str, id: int):
        mention(recipe='{"k": 7}')
        logging.getLogger("moeash.service").warning("looked at")
        return "ok"

    service.framework.add_api_route("/api/v1/studies/{name}/solutions/{id}", work, methods=["GET"])
    answer = service.client().get("/api/v1/studies/dig%0Aits/solutions/3?secret=1")
    inner, outer = lines
    for line in lines:
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["recipe"] == '{"k": 7}'
    assert inner["message"] == "looked at" and inner["level"] == "warning"
    assert outer["message"] == "GET /api/v1/studies/{name}/solutions/{id} 200"
    assert outer["study"] == "dig\nits" and outer["status"] == 200
    assert "secret" not in json.dumps(lines)


def test_an_error_of_the_service_itself_is_logged_and_answered_without_its_text(service, lines):
    def fail():
        raise RuntimeError("the password is hunter2")

    service.framework.add_api_route("/fail", fail, methods=["GET"])
    with real_server(service.app) as port:
        answer = httpx.get(f"http://127.0.0.1:{port}/fail", timeout=60)
    assert answer.status_code == 500 and "hunter2" not in answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == lines[0]["request_id"]
    assert "hunter2" in lines[0]["traceback"] and lines[-1]["status"] == 500


def test_changes_and_logins_are_in_the_audit_before_they_are_answered(service):
    admin, viewer = service.bearer("admin"), service.bearer("viewer")
    client = service.client(address="10.1.1.1")
    client.post(TOKENS, json={"role": "viewer", "name": "new"}, headers=admin)
    client.post(TOKENS, json={"role": "admin"}, headers=viewer)
    client.delete(TOKENS + "/3", headers=admin)
    client.get(TOKENS, headers=admin)
    for what in ("check", "toml"):  # asked while somebody types; nothing is another afterwards
        client.post(f"/api/v1/specs/{what}", json={}, headers=admin)
    client.post(SESSION, json={"code": service.auth.login_code()}, headers=PAGE)
    client.post(SESSION, json={"code": "no"}, headers=PAGE)
    rows = [(r.who, r.role, r.action, r.target, r.status) for r in service.audit.page()[::-1]]
    assert rows == [
        ("admin", "admin", "POST /api/v1/tokens", TOKENS + "/new", 201),
        ("viewer", "viewer", "POST /api/v1/tokens", TOKENS, 403),
        ("admin", "admin", "DELETE /api/v1/tokens/{id}", TOKENS + "/3", 204),
        ("one-time login", "admin", "POST /api/v1/session", SESSION, 200),
        ("", "none", "POST /api/v1/session", SESSION, 401),
    ]
    assert {row.address for row in service.audit.page()} == {"10.1.1.1"}


def test_strangers_cannot_fill_the_audit(service):
    client = service.client()
    for n in range(30):
        client.post(TOKENS, json={"role": "viewer"})
        client.post(f"/api/v1/nothing/{n}", json={})
        client.post(SESSION, json={"token": f"guess {n}"})
        client.post(SESSION, json={"wrong": "shape"})
    assert len(service.audit.page()) <= 6


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/api/v1/x", "/api/v1/{name}"),
        ("/api/v1/session/api/v1/session", "(none)"),
        ("/pages/api/v1/x", "/pages/{rest:path}"),
        ("/api/v1/", "(none)"),
    ],
)
def test_the_route_of_a_request_is_one_that_the_application_has(tmp_path, path, route):
    from fastapi import APIRouter

    seen = []
    service = Service(tmp_path, observe=lambda *values: seen.append(values[1]))
    inner = APIRouter()
    inner.add_api_route("/{name}", lambda name: name, methods=["GET"])
    service.framework.include_router(inner, prefix="/api/v1")
    service.framework.add_api_route("/pages/{rest:path}", lambda rest: rest, methods=["GET"])
    service.client().get(path)
    assert seen == [route]
    service.close()


def test_times_are_told_by_route_and_status(tmp_path):
    seen = []
    service = Service(tmp_path, observe=lambda *values: seen.append(values[:3]))
    service.client().delete(TOKENS + "/17", headers=service.bearer("admin"))
    service.client().get("/a/b/c")
    service.client().get(SESSION, headers={"Host": "evil.example"})
    assert seen == [
        ("DELETE", "/api/v1/tokens/{id}", 404),
        ("GET", "(none)", 404),
        ("GET", "(none)", 421),
    ]
    service.close()
