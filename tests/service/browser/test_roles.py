"""What somebody sees who may only look."""

import json

import pytest

from tests.service.browser.served import browsing, part

pytestmark = [pytest.mark.browser, pytest.mark.slow]


FORBIDDEN = [
    ("POST", "/studies", {"toml": 'name = "mine"'}),
    ("POST", "/studies/finished/start", {}),
    ("POST", "/studies/finished/stop", {}),
    ("PATCH", "/studies/finished", {"archived": True}),
    ("DELETE", "/studies/finished", None),
    ("POST", "/studies/finished/exports", {"pick": "smallest", "formats": ["moeash"]}),
    ("GET", "/tokens", None),
]
"""What the buttons that are not there would ask."""


@pytest.fixture(scope="module")
def visitor(served, chromium):
    """A second browser, logged in with a viewer's token."""
    with browsing(chromium, served.url) as page:
        page.watch.allow("status of 401 (Unauthorized) at " + served.url + "/api/v1/session")
        page.goto(served.url)
        part(page, "token").fill(served.viewer_token)
        part(page, "login").click()
        part(page, "who").wait_for()
        yield page


def test_a_viewer_sees_all_and_changes_nothing(served, visitor, finished):
    assert part(visitor, "who").inner_text() == "visitor · viewer"
    assert part(visitor, "nav-new-study").count() == 0
    assert part(visitor, "nav-admin").count() == 0
    visitor.locator(f'[data-name="{finished}"] a').click()
    part(visitor, "pick-bytes").wait_for()
    assert part(visitor, "front-table").locator("tbody tr[data-id]").count() > 0
    for name in ("resume", "export", "pin"):
        assert part(visitor, name).is_disabled(), name
    part(visitor, "more-actions").click()
    assert part(visitor, "archive").is_disabled()
    assert part(visitor, "clone").count() == 0
    part(visitor, "tab-notes").click()
    part(visitor, "notes").wait_for()
    assert part(visitor, "notes-edit").count() == part(visitor, "tag-new").count() == 0

    visitor.goto(f"{served.url}/new")
    part(visitor, "verdict").get_by_text("A valid study").wait_for()
    assert part(visitor, "launch").is_disabled()
    visitor.goto(f"{served.url}/admin")
    visitor.get_by_text("Only for admins").wait_for()


def test_the_api_refuses_what_a_viewers_browser_may_not(served, visitor, finished):
    visitor.watch.allow("status of 403")
    visitor.goto(served.url)
    for method, path, body in FORBIDDEN:
        status = visitor.evaluate(
            """async ([method, path, body]) => (await fetch(`/api/v1${path}`, {method, body,
                headers: body ? {'Content-Type': 'application/json'} : {}})).status""",
            [method, path, None if body is None else json.dumps(body)],
        )
        assert (method, path, status) == (method, path, 403)
    assert served.study(finished)["status"] == "finished"
