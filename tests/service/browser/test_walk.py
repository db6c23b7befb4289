"""From the printed link to a verified file, as a person does it."""

import hashlib
import re

import pytest

from tests.service.browser.served import browsing, counts, drag, more_points_than, part

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SAME_DOCUMENT = "window.never = 'loaded again'"


def pick_bytes(page):
    return int(part(page, "pick-bytes").get_attribute("data-bytes"))


FEWER_BYTES = "n => Number(document.querySelector('[data-test=pick-bytes]')?.dataset.bytes) < n"


def test_the_printed_link_logs_in_once(served, chromium):
    with browsing(chromium, served.url) as page:
        page.goto(served.login)
        part(page, "who").wait_for()
        assert part(page, "who").inner_text() == "one-time login · admin"
        assert page.url == f"{served.url}/"  # the code does not stay in the bar
    with browsing(chromium, served.url) as page:
        page.watch.allow("status of 401", "status of 403")
        page.goto(served.login)
        part(page, "token").wait_for()
        assert part(page, "who").count() == 0


def test_the_printed_link_logs_in_where_the_page_is_open_already(served, chromium):
    """Only what stands after # is another then, and the document is not loaded again."""
    served.kill()
    served.start()  # which prints another one
    with browsing(chromium, served.url) as page:
        page.watch.allow("status of 401")
        page.goto(served.url)
        part(page, "token").wait_for()
        page.evaluate(SAME_DOCUMENT)
        page.goto(served.login)
        part(page, "who").wait_for()
        assert page.evaluate("window.never") == "loaded again"


def test_a_study_goes_from_the_form_to_a_verified_file(served, page, moeash, tmp_path):
    page.goto(served.url)
    page.evaluate(SAME_DOCUMENT)
    part(page, "nav-new-study").click()
    page.wait_for_function("() => !document.querySelector('[data-test=launch]')?.disabled")
    toml = part(page, "toml").input_value()
    toml = re.sub("^name = .*$", 'name = "walk"', toml, flags=re.M)
    toml = toml.replace("generations = 12", "generations = 4")
    toml = re.sub("count = 450", "count = 150", toml)
    part(page, "toml").fill(toml + "\n[search]\npopulation = 12\n[merge]\ntrials = 4\n")
    page.wait_for_function("() => !document.querySelector('[data-test=launch]').disabled")
    part(page, "launch").click()
    page.wait_for_url("**/studies/walk")

    more_points_than(page, 0)
    part(page, "resume").wait_for()  # it is no longer running
    item = served.wait("walk")
    more_points_than(page, item["complete"] + item["stopped"] - 1)
    assert counts(page)[1] == item["complete"] + item["stopped"]
    assert page.evaluate("window.never") == "loaded again"

    drag(page, (0.1, 0.12), (0.95, 0.85))
    box = part(page, "selection-table").locator("tbody tr[data-id]").count()
    assert box > 1
    assert part(page, "selection-count").inner_text() == f"{box} points"
    part(page, "tool-lasso").click()
    drag(page, (0.1, 0.12), (0.95, 0.12), (0.95, 0.85))  # the upper right half of it
    lasso = part(page, "selection-table").locator("tbody tr[data-id]").count()
    assert 0 < lasso < box

    part(page, "rule-best").click()
    page.wait_for_function(
        "() => document.querySelector('[data-test=rule-best]').getAttribute('aria-pressed')"
        " === 'true'"
    )
    best, command = pick_bytes(page), part(page, "pick-command").inner_text()
    assert part(page, "limit-drop").input_value() == "0.03"  # what the study itself wants
    part(page, "limit-drop").fill("")
    part(page, "limit-drop").press("Tab")
    part(page, "slider-bytes").fill("40")
    page.wait_for_function(
        FEWER_BYTES,
        arg=best,
    )
    assert part(page, "pick-command").inner_text() != command
    assert "--max-bytes" in part(page, "pick-command").inner_text()
    assert "max_bytes=" in page.url

    picked = pick_bytes(page)
    part(page, "export").click()
    part(page, "export-start").click()
    part(page, "export-progress").wait_for()
    part(page, "verified").wait_for()
    assert f"{picked:,} bytes" in part(page, "verified").inner_text()
    assert part(page, "verified").locator(".bad").count() == 0
    with page.expect_download() as download:
        part(page, "download").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    assert file.stat().st_size == picked
    assert part(page, "sha256").inner_text() == hashlib.sha256(file.read_bytes()).hexdigest()
    answer = moeash("verify", file, "--study", "walk", "--storage", served.storage)
    assert (answer.code, answer.err) == (0, "")

    part(page, "export-open").click()
    part(page, "bytes-by-tensor").wait_for()
    assert part(page, "solution-bytes").inner_text().endswith(f"{picked:,} bytes")
    assert page.evaluate("window.never") == "loaded again"
