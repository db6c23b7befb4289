"""What can be done without a mouse."""

import pytest

from tests.service.browser.served import part

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOCUSED = "document.activeElement?.dataset.test"


def front(served, name):
    return served.api.get(f"/studies/{name}/front").json()["items"]


def test_a_study_is_found_and_opened_by_keys(served, page, finished):
    page.goto(served.url)
    page.locator(f'[data-name="{finished}"]').wait_for()
    page.keyboard.press("/")
    assert page.evaluate(FOCUSED) == "search"
    page.keyboard.type("finis")
    page.wait_for_url("**/?search=finis")
    page.keyboard.press("Escape")
    page.locator(f'[data-name="{finished}"] a').focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{finished}")


def test_a_list_that_is_drawn_anew_keeps_the_focus(served, page, finished):
    page.goto(served.url)
    row = page.locator(f'[data-name="{finished}"]')
    box = row.locator('[data-test="select"]')
    box.focus()
    old = row.element_handle()
    page.keyboard.press("Space")  # a row that is selected draws the list anew
    page.wait_for_function("old => !old.isConnected", arg=old)
    assert box.is_checked() and page.evaluate(FOCUSED) == "select"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{finished}")


def test_the_front_is_walked_picked_exported_and_opened_by_keys(served, page, finished):
    page.goto(f"{served.url}/studies/{finished}")
    part(page, "pick-bytes").wait_for()
    points = front(served, finished)
    assert len(points) > 1
    part(page, "front-chart").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    said = page.locator('[id^="front-live"]').inner_text()
    assert said.startswith(f"2 of {len(points)}: solution {points[1]['id']},")
    page.keyboard.press(" ")
    page.wait_for_function(
        "bytes => document.querySelector('[data-test=pick-bytes]').dataset.bytes === bytes",
        arg=str(points[1]["size_bytes"]),
    )
    page.keyboard.press("e")
    part(page, "export-dialog").wait_for()
    assert page.evaluate(FOCUSED) == "export-start"
    page.keyboard.press("Escape")
    part(page, "export-dialog").wait_for(state="detached")
    part(page, "front-chart").focus()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{finished}/solutions/{points[-1]['id']}")


def test_the_keys_are_listed_by_a_key_and_do_nothing_while_one_types(served, page):
    page.goto(served.url)
    part(page, "search").focus()
    page.keyboard.type("?e")
    assert part(page, "search").input_value() == "?e"
    assert part(page, "help-dialog").count() == 0
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    part(page, "help-dialog").wait_for()
    page.keyboard.press("Escape")
    part(page, "help-dialog").wait_for(state="detached")
