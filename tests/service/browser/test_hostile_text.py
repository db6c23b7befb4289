"""What people wrote is text on every page that shows it."""

import pytest

from tests.service.browser.served import STUDY, part

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MARKUP = "<img src=x onerror=\"window.broken='yes'\"><script>window.broken='yes'</script>"
"""What would say so if it became markup."""


def test_notes_and_tags_never_become_markup(served, page, finished):
    notes = f"# {MARKUP}\n\n{MARKUP}\n\n* {MARKUP}\n\n[{MARKUP}](javascript:window.broken='yes')"
    tag = MARKUP[:40]
    page.goto(f"{served.url}/studies/{finished}?tab=notes")
    part(page, "notes-edit").click()
    part(page, "notes-text").fill(notes)
    part(page, "notes-save").click()
    part(page, "notes-edit").wait_for()
    part(page, "tag-new").fill(tag)
    part(page, "tag-add").click()
    page.locator(".tag").get_by_text(tag).first.wait_for()
    item = served.study(finished)
    assert (item["notes"], item["tags"]) == (notes, [tag])
    try:
        shown = part(page, "notes")
        assert shown.inner_text().count(MARKUP) == 4
        for address in (f"/studies/{finished}?tab=notes", "/"):
            page.goto(served.url + address)
            page.locator(".tag").get_by_text(tag).first.wait_for()
            assert page.locator("main img, main script, main iframe").count() == 0
            assert page.locator('a[href^="javascript"]').count() == 0
            assert page.evaluate("window.broken") is None
    finally:
        served.api.patch(f"/studies/{finished}", json={"notes": "", "tags": []})


def test_a_name_of_markup_is_refused_and_shown_as_text(served, page):
    name = "<img src=x onerror=alert(1)>"
    page.goto(f"{served.url}/new")
    part(page, "verdict").get_by_text("A valid study").wait_for()
    part(page, "toml").fill(STUDY.replace("NAME", name))
    page.get_by_text(name, exact=False).first.wait_for()
    page.goto(f"{served.url}/studies/{name}")
    page.watch.allow("status of 404")
    part(page, "error").wait_for()
    assert page.locator("main img").count() == 0
