"""A study of 20,000 evaluations: thinned, whole where it counts, and still answering."""

import time

import pytest

from tests.long_study import write_long_study
from tests.service.browser.served import counts, drag, more_points_than, part

pytestmark = [pytest.mark.browser, pytest.mark.slow]

N = 20_000
"""Twice what the chart draws of them; the benchmarks of the service have 50,000."""


FEWER_BYTES = "n => Number(document.querySelector('[data-test=pick-bytes]')?.dataset.bytes) < n"


def test_a_long_study_is_drawn_thinned_and_still_answers(served, page, inspect):
    write_long_study(served.storage, "many", N)
    start = time.monotonic()
    page.goto(f"{served.url}/studies/many")
    more_points_than(page, 0)
    part(page, "pick-bytes").wait_for()
    drawn = time.monotonic()
    shown, total = counts(page)
    assert total == N
    assert 1000 < shown < N / 2
    front = served.api.get("/studies/many/front").json()["items"]
    rows = part(page, "front-table").locator("tbody tr[data-id]").count()
    assert rows == min(len(front), 100)

    part(page, "rule-best").click()
    before = int(part(page, "pick-bytes").get_attribute("data-bytes"))
    limited = time.monotonic()
    part(page, "slider-bytes").fill("200")
    page.wait_for_function(
        FEWER_BYTES,
        arg=before,
    )
    chosen = time.monotonic()
    drag(page, (0.2, 0.2), (0.9, 0.8))
    part(page, "selection-table").locator("tbody tr[data-id]").nth(50).wait_for()
    selected = time.monotonic()
    part(page, "tab-all").click()
    part(page, "evaluations-table").locator("tbody tr[data-id]").nth(99).wait_for()
    inspect(page, "study-many", within=".tab-panel")
    print(
        f"\n{shown:,} of {total:,} points drawn after {drawn - start:.2f} s, "
        f"a limit answered in {chosen - limited:.2f} s, a box in {selected - chosen:.2f} s"
    )
