"""Studies that wait, that never were, that were killed, and that found nothing."""

import os
import signal
from pathlib import Path

import pytest

from tests.service.browser.served import LONG_STUDY, STUDY, more_points_than, part, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LONG_NAME = "long-name-" + "x" * 190


@pytest.fixture(autouse=True)
def nothing_stays(served):
    """Others of this server wait for what runs."""
    yield
    for item in served.studies():
        if item["status"] in ("running", "queued"):
            served.api.post(f"/studies/{item['name']}/stop", json={})


def test_what_waits_is_no_alarm_and_what_never_was_is_deleted(served, page, inspect):
    served.launch(LONG_NAME, LONG_STUDY)
    served.wait(LONG_NAME, "running")  # until then it waits, too, and has the first place
    broken = STUDY.replace("[1500, 1700]", "[1500, 1700000]").replace("[60, 260]", "[60, 2600000]")
    served.launch("vain", broken)
    page.goto(f"{served.url}/studies/vain")
    part(page, "stop").get_by_text("Leave the queue").wait_for()
    assert "Place 1 in the queue." in part(page, "doing").inner_text()
    assert part(page, "reason").count() == 0
    inspect(page, "study-queued", within="main")
    page.goto(f"{served.url}/studies/vain/log")
    part(page, "log").wait_for()
    inspect(page, "log-queued", within="main")
    page.goto(f"{served.url}/cluster")
    part(page, "running-table").get_by_text("x" * 190).wait_for()
    table = part(page, "running-table")
    assert table.evaluate("t => t.offsetWidth <= t.parentElement.offsetWidth")
    inspect(page, "cluster-long-name", within="main")
    page.goto(served.url)
    page.locator('[data-name="vain"]').get_by_text("place 1 in the queue").wait_for()
    assert page.locator('[data-name="vain"] .reason').count() == 0
    inspect(page, "studies-long-name", within="main")

    served.api.post(f"/studies/{LONG_NAME}/stop", json={}).raise_for_status()
    served.wait("vain", "failed")
    page.goto(f"{served.url}/studies/vain")
    reason = part(page, "reason")
    reason.wait_for()
    assert "2600000" in reason.inner_text()
    part(page, "more-actions").click()
    assert part(page, "archive").count() == part(page, "evaluations-csv").count() == 0
    assert part(page, "accept-baseline").count() == 0  # its baseline was never in doubt
    inspect(page, "study-never-stored", within="main")
    part(page, "delete").click()
    page.locator("dialog[open]").get_by_text("never got as far as being stored").wait_for()
    page.locator("dialog[open]").get_by_text("Delete for good").click()
    page.wait_for_url(f"{served.url}/")
    page.locator(f'[data-name="{LONG_NAME}"]').wait_for()
    assert page.locator('[data-name="vain"]').count() == 0
    assert served.api.get("/studies/vain").status_code == 404


def test_a_killed_study_says_its_last_lines_one_by_one(served, page, inspect):
    served.launch("killed", LONG_STUDY)
    until(lambda: served.study("killed")["generations"], lambda n: n > 2, "nothing was measured")
    page.goto(f"{served.url}/studies/killed")
    part(page, "stop").wait_for()
    place = Path(f"/proc/{served.process.pid}/task")
    pids = [pid for path in place.glob("*/children") for pid in path.read_text().split()]
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    said = part(page, "reason")
    said.get_by_text("Its process was ended by signal 9; it said last:").wait_for()
    lines = said.locator("code").all_inner_texts()
    assert len(lines) == 4 and all(line.startswith("generation") for line in lines[1:])
    item = served.study("killed")
    assert item["status"] == "crashed"
    more_points_than(page, item["complete"] + item["stopped"] - 1)
    inspect(page, "study-crashed", within="main")
    page.goto(served.url)
    row = page.locator('[data-name="killed"]')
    assert row.locator(".reason").evaluate("e => e.clientHeight") < 80  # it is told in full there
    inspect(page, "studies-crashed", within="main")


def test_where_nothing_was_wanted_the_chart_shows_what_was_stopped(served, page, inspect):
    hopeless = STUDY.replace("max_drop = 0.1", "max_drop = 0.00001")
    hopeless += '[method]\nname = "uniform"\nk = [2, 3]\n'
    served.launch("hopeless", hopeless)
    item = served.wait("hopeless")
    assert item["front_size"] == 0 and item["stopped"] > 0
    page.goto(f"{served.url}/studies/hopeless")
    part(page, "points").get_by_text(f"{item['stopped']} of").wait_for()
    part(page, "pick-nothing").get_by_text("no evaluation came within").wait_for()  # not "yet"
    inspect(page, "study-hopeless", within="main")
    points = served.api.get("/studies/hopeless/points", params={"columns": 180, "rows": 110})
    lowest = 100 * min(points.json()["metric"])
    labels = part(page, "front-chart").locator("svg text").all_text_contents()
    ticks = [float(label) for label in labels if label.replace(".", "").isdigit()]
    percents = [tick for tick in ticks if tick <= 100]
    assert min(percents) < lowest + 10, (ticks, lowest)
