"""What one may do with a study beyond looking: overlay, film, pins, copies, retries, uploads."""

from contextlib import closing
from importlib.resources import files

import pytest
from sqlalchemy import update

from moeash.study.events import Note
from moeash.study.storage.counts import count_anew
from moeash.study.storage.sql import SqlStorage
from moeash.study.storage.tables import EVALUATIONS
from tests.long_study import write_long_study
from tests.service.browser.served import STUDY, counts, part, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def beside(served):
    """The name of a study with two variables and three hundred evaluations."""
    write_long_study(served.storage, "beside", 300)
    return "beside"


def open_study(served, page, name, query=""):
    page.goto(f"{served.url}/studies/{name}{query}")
    part(page, "pick-bytes").wait_for()


def without(page, name):
    """Wait until the address says nothing of something."""
    page.wait_for_url(lambda url: f"{name}=" not in url)


def test_another_study_is_laid_over_and_taken_off(served, page, finished, beside, inspect):
    open_study(served, page, finished)
    part(page, "overlay").select_option(beside)
    part(page, "overlay-remove").wait_for()
    assert f"overlay={beside}" in page.url
    page.reload()
    part(page, "overlay-remove").wait_for()
    assert beside in part(page, "overlay-remove").inner_text()
    inspect(page, "study-overlay", within=".workbench")
    part(page, "overlay-remove").click()
    without(page, "overlay")
    assert part(page, "overlay-remove").count() == 0


def test_generations_are_a_film_that_ends_with_the_present(served, page, finished, inspect):
    open_study(served, page, finished)
    film = page.locator(".generations")
    part(page, "generation").fill("1")
    film.get_by_text("generation 1 of 3").wait_for()
    page.wait_for_url("**generation=1**")
    assert part(page, "generation").get_attribute("aria-valuetext") == "generation 1 of 3"
    inspect(page, "study-generation", within=".workbench")
    part(page, "play").click()
    film.get_by_text("generation 2 of 3").wait_for()
    film.get_by_text("generation 3 of 3").wait_for()
    without(page, "generation")
    assert part(page, "latest").is_hidden()
    assert part(page, "play").inner_text() == "▶ Play"
    part(page, "generation").fill("2")
    part(page, "latest").click()
    without(page, "generation")


def test_solutions_are_pinned_marked_and_compared(served, page, finished, inspect):
    open_study(served, page, finished)
    for rule in ("rule-smallest", "rule-best"):
        part(page, rule).click()
        part(page, "pin").get_by_text("Pin", exact=True).click()
        part(page, "pin").get_by_text("Unpin").wait_for()
    pins = served.study(finished)["pins"]
    assert len(pins) == 2
    page.reload()
    part(page, "pick-bytes").wait_for()
    part(page, "tab-notes").click()
    part(page, "compare-pins").wait_for()
    inspect(page, "study-pins")
    part(page, "compare-pins").click()
    part(page, "comparison").wait_for()
    page.go_back()
    part(page, "rule-best").click()
    part(page, "pin").get_by_text("Unpin").click()
    part(page, "pin").get_by_text("Pin", exact=True).wait_for()
    assert served.study(finished)["pins"] == pins[:1]


def test_a_copy_is_launched_under_a_name_of_its_own(served, page, finished):
    open_study(served, page, finished)
    part(page, "more-actions").click()
    part(page, "clone").click()
    part(page, "verdict").get_by_text("A valid study").wait_for()
    toml = part(page, "toml").input_value()
    assert f'name = "{finished}-2"' in toml and "population = 12" in toml


def test_a_study_is_archived_and_then_deleted_by_name(served, page, inspect):
    write_long_study(served.storage, "old", 60)
    open_study(served, page, "old")
    part(page, "more-actions").click()
    assert part(page, "delete").count() == 0
    inspect(page, "study-actions", within=".head")
    part(page, "archive").click()
    page.get_by_text("Archived. It can be deleted now.").wait_for()
    assert served.study("old")["archived"]
    part(page, "more-actions").click()
    part(page, "delete").click()
    dialog = page.locator("dialog[open]")
    dialog.get_by_text("Delete old?").wait_for()
    assert "60 evaluations" in dialog.inner_text()
    inspect(page, "dialog-delete", within="dialog")
    page.keyboard.press("Escape")
    assert served.study("old")["archived"]
    part(page, "more-actions").click()
    part(page, "delete").click()
    dialog.get_by_text("Delete for good").click()
    page.wait_for_url(f"{served.url}/")
    assert served.api.get("/studies/old").status_code == 404


def test_a_spec_and_a_checkpoint_come_from_files(served, page, tmp_path, inspect):
    page.goto(f"{served.url}/new")
    part(page, "verdict").get_by_text("A valid study").wait_for()
    spec = tmp_path / "mine.toml"
    spec.write_text("# of my own\n" + STUDY.replace("NAME", "from-a-file"))
    part(page, "spec-file").set_input_files(spec)
    page.wait_for_function(
        "() => document.querySelector('[data-test=toml]').value.startsWith('# of my own')"
    )
    part(page, "verdict").get_by_text("A valid study").wait_for()
    weights = files("moeash.networks") / "trained" / "digits-cnn.safetensors"
    part(page, "weights-file").set_input_files(str(weights))
    page.get_by_text("network.checkpoint names it").wait_for()
    page.wait_for_function(
        "() => document.querySelector('[data-test=toml]').value.includes('checkpoint = ')"
    )
    part(page, "verdict").get_by_text("A valid study").wait_for()
    (upload,) = served.api.get("/files").json()["items"]
    assert upload["path"] in part(page, "toml").input_value()
    part(page, "uploads").click()
    inspect(page, "new-uploaded")
    part(page, "delete-upload").click()
    part(page, "confirm-yes").click()
    part(page, "uploads-table").get_by_text("None yet.").wait_for()
    assert served.api.get("/files").json()["items"] == []


def test_failures_are_shown_and_tried_again_under_their_numbers(served, page, inspect):
    served.launch("failing")
    whole = served.wait("failing")
    number = 5
    with closing(SqlStorage(served.storage)) as storage:
        id_ = storage.study("failing").id
        lost = {"status": "failed", "retriable": True, "error": "OSError: a disk was full"}
        unknown = dict.fromkeys(("metric", "bound", "size_bytes", "entries", "bits_per_weight"))
        row = (EVALUATIONS.c.study_id == id_) & (EVALUATIONS.c.number == number)

        def fail(connection):
            connection.execute(update(EVALUATIONS).where(row).values(lost | unknown))
            count_anew(connection, id_)

        storage.database.write(None, fail)
        storage.add_events(id_, [Note("as if a disk had been full")])
    open_study(served, page, "failing", "?tab=failures")
    part(page, "failures-table").get_by_text("a disk was full").wait_for()
    total = counts(page)[1]
    assert total == whole["evaluations"] - 1
    inspect(page, "study-failures-some", within=".tab-panel")
    part(page, "retry").click()
    until(lambda: served.study("failing"), lambda it: it["failed"] == 0, "nothing was retried")
    served.wait("failing")
    page.get_by_text("No evaluation has failed.").wait_for()
    page.wait_for_function(
        "n => Number(document.querySelector('[data-test=points]').dataset.total) === n",
        arg=total + 1,
    )


def test_variables_are_brushed_along_their_axes(served, page, beside, inspect):
    open_study(served, page, beside, "?tab=parallel")
    part(page, "parallel-table").locator("tbody tr[data-id]").first.wait_for()
    words = part(page, "parallel-count")
    before = words.inner_text()
    box = page.locator(".parallel").bounding_box()
    page.locator(".parallel").scroll_into_view_if_needed()
    box = page.locator(".parallel").bounding_box()
    page.mouse.move(box["x"] + 44, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 44, box["y"] + 150, steps=4)
    page.mouse.up()
    page.wait_for_function(
        "before => document.querySelector('[data-test=parallel-count]').textContent !== before",
        arg=before,
    )
    inspect(page, "study-parallel", within=".tab-panel")
    page.get_by_text("Clear brushes").click()
    assert words.inner_text() == before
