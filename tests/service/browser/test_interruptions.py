"""A study that goes on while its page is loaded again, its server killed, or it is stopped."""

import pytest

from tests.service.browser.served import LONG_STUDY, counts, more_points_than, part, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_run_survives_a_reload_a_killed_server_and_a_stop(served, page, inspect):
    served.launch("long", LONG_STUDY)
    until(lambda: served.study("long")["complete"], bool, "nothing was measured")
    page.goto(f"{served.url}/studies/long?tab=history&max_drop=0.05")
    more_points_than(page, 0)

    before = counts(page)[1]
    page.reload()
    more_points_than(page, before - 1)  # all that was there, at once or more
    more_points_than(page, counts(page)[1])
    assert part(page, "tab-history").get_attribute("aria-selected") == "true"
    assert part(page, "limit-drop").input_value() == "5"

    page.watch.allow("ERR_CONNECTION", "ERR_INCOMPLETE_CHUNKED_ENCODING", "ERR_EMPTY_RESPONSE")
    page.evaluate("window.never = 'loaded again'")
    served.kill()
    page.locator("#offline").wait_for()
    assert "Reconnecting" in page.locator("#offline").inner_text()
    inspect(page, "study-offline")
    before = counts(page)[1]
    served.start()
    page.locator("#offline").wait_for(state="hidden")
    more_points_than(page, before)

    part(page, "stop").click()
    part(page, "resume").wait_for()
    item = served.wait("long", "interrupted")
    stored = item["complete"] + item["stopped"]
    more_points_than(page, stored - 1)
    assert counts(page)[1] == stored
    points = served.api.get("/studies/long/points", params={"columns": 180, "rows": 110}).json()
    assert points["total"] == stored
    assert page.evaluate("window.never") == "loaded again"

    assert part(page, "resume").inner_text() == "Resume"
    part(page, "resume").click()
    part(page, "stop").wait_for()
    more_points_than(page, stored)
    part(page, "stop").click()
    part(page, "resume").wait_for()
    until(lambda: served.study("long")["status"], lambda s: s == "interrupted", "it did not stop")
    assert page.evaluate("window.never") == "loaded again"
