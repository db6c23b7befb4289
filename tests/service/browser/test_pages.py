"""Every page, light and dark, wide and narrow: readable by all, never scrolling sideways.

With ``MOEASH_SCREENSHOTS=FOLDER`` in the environment, a picture of each is left there to look at.
"""

import pytest

from tests.long_study import write_long_study
from tests.service.browser.served import browsing, part, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="session")
def exported(served, finished):
    """The solution of the finished study that was exported."""
    order = {"pick": "smallest", "formats": ["moeash"]}
    job = served.api.post(f"/studies/{finished}/exports", json=order).raise_for_status().json()
    path = f"/exports/{job['id']}"
    get = lambda: served.api.get(path).json()  # noqa: E731
    done = until(get, lambda it: it["status"] in ("finished", "failed"), "the export did not end")
    assert done["status"] == "finished", done
    return done["report"]["solution"]["id"]


def test_the_login(served, chromium, inspect):
    with browsing(chromium, served.url) as page:
        page.watch.allow(f"status of 401 (Unauthorized) at {served.url}/api/v1/session")
        page.goto(served.url)
        part(page, "token").wait_for()
        inspect(page, "login")


def test_the_list(served, page, finished, inspect):
    page.goto(served.url)
    page.locator(f'[data-name="{finished}"]').wait_for()
    inspect(page, "list")
    page.goto(f"{served.url}/?search=nothing-of-this-name")
    part(page, "empty").wait_for()
    inspect(page, "list-empty")


def test_a_study(served, page, finished, inspect):
    page.goto(f"{served.url}/studies/{finished}")
    part(page, "pick-bytes").wait_for()
    inspect(page, "study")


@pytest.mark.parametrize(
    ("tab", "shown"),
    [
        ("all", "evaluations-table"),
        ("history", "duration-chart"),
        ("workers", "timeline"),
        ("failures", None),
        ("exports", "export-row"),
        ("notes", "notes"),
        ("spec", "spec"),
    ],
)
def test_a_tab_of_a_study(served, page, finished, exported, inspect, tab, shown):
    page.goto(f"{served.url}/studies/{finished}?tab={tab}")
    part(page, "pick-bytes").wait_for()
    if shown:
        part(page, shown).first.wait_for()
    inspect(page, f"study-{tab}", within=".tab-panel")


def test_times_are_drawn_in_the_unit_that_suits_them(served, page, finished):
    page.goto(f"{served.url}/studies/{finished}?tab=history")
    assert part(page, "duration-chart").locator(".axis-title").first.text_content() == (
        "seconds since the first shown"
    )


def test_a_solution(served, page, finished, exported, inspect):
    page.goto(f"{served.url}/studies/{finished}/solutions/{exported}")
    part(page, "bytes-by-tensor").wait_for()
    part(page, "compare-with").select_option(index=1)
    part(page, "comparison").wait_for()
    inspect(page, "solution")


def test_a_comparison(served, page, finished, inspect):
    write_long_study(served.storage, "other", 300)
    page.goto(f"{served.url}/compare?study={finished}&study=other")
    part(page, "compare-table").wait_for()
    inspect(page, "compare")


def test_a_log(served, page, finished, inspect):
    page.goto(f"{served.url}/studies/{finished}/log")
    part(page, "events").locator("tr").nth(1).wait_for()
    inspect(page, "log")


def test_the_log_of_a_study_that_was_not_launched_says_where_it_is(served, page):
    write_long_study(served.storage, "of-a-terminal", 50)
    page.goto(f"{served.url}/studies/of-a-terminal/log")
    empty = page.locator("[data-empty]")
    empty.wait_for(state="attached")
    assert empty.get_attribute("data-empty").startswith("A terminal runs this study")
    assert page.get_by_text("process has ended").count() == 0


def test_the_form_and_what_it_says_of_mistakes(served, page, inspect):
    page.goto(f"{served.url}/new")
    part(page, "verdict").get_by_text("A valid study").wait_for()
    inspect(page, "new")
    toml = part(page, "toml").input_value()
    part(page, "toml").fill(toml.replace("generations = 12", "generations = -1\nfoo = 3"))
    part(page, "verdict").get_by_text("to mend").wait_for()
    inspect(page, "new-wrong")


def test_the_cluster(served, page, inspect):
    page.goto(f"{served.url}/cluster")
    part(page, "running-table").wait_for()
    inspect(page, "cluster")


def test_tokens_are_made_and_shown_once_to_an_admin(served, page, inspect):
    page.goto(f"{served.url}/admin")
    part(page, "audit-table").locator("tr").nth(1).wait_for()
    part(page, "token-name").fill("reader")
    part(page, "token-role").select_option("viewer")
    part(page, "token-create").click()
    part(page, "token-made").wait_for()
    inspect(page, "admin-token")
    page.keyboard.press("Escape")
    inspect(page, "admin")


def test_dialogs(served, page, finished, inspect):
    page.goto(f"{served.url}/studies/{finished}")
    part(page, "pick-bytes").wait_for()
    part(page, "export").click()
    inspect(page, "dialog-export")
    page.keyboard.press("Escape")
    part(page, "help").click()
    inspect(page, "dialog-help")
    page.keyboard.press("Escape")
    part(page, "sign-out").click()
    inspect(page, "dialog-confirm")


def test_no_such_page_and_no_such_study(served, page, inspect):
    page.watch.allow("status of 404")
    page.goto(f"{served.url}/studies/nothing-of-this-name")
    part(page, "error").wait_for()
    inspect(page, "error")
