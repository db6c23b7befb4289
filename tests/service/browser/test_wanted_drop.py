"""What a study wants, and what is luck, where a person picks: limits, axes, noise, notes."""

from contextlib import closing

import pytest

from moeash.core.solutions.objectives import Sizes
from moeash.core.solutions.variables import Integer
from moeash.evaluation.outcome import Outcome
from moeash.study.course.options import BudgetOptions
from moeash.study.events import Note, Opened
from moeash.study.storage.sql import SqlStorage
from tests.contracts.storage import add, facts
from tests.service.browser.served import part

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SPEC = {"network": {"source": "digits-cnn"}, "data": {"source": "digits"}, "name": "NAME"}
NOTE = "the front ends at a bound of the search: its smallest solution has k = 2, the lowest"


def store(served, name, metrics, *, noise=None, **known):
    """Store a finished study whose files take 10, 20, 30, ... kB."""
    with closing(SqlStorage(served.storage)) as storage:
        stored = facts(name=name, original_bytes=400_000, **known)
        study = storage.create_study(stored)
        storage.add_events(
            study.id, [Note("of the run before"), Opened(stored, 0, BudgetOptions())]
        )
        storage.add_events(study.id, [Note("splits overlap"), Opened(stored, 0, BudgetOptions())])
        storage.add_events(study.id, [Note(NOTE)])
        for number, metric in enumerate(metrics, start=1):
            sizes = Sizes(10_000 * number, number + 1, 2.5)
            outcome = Outcome("complete", metric, metric, sizes, "ab", 1, 0.1, noise=noise)
            add(storage, study, number, outcome=outcome)
        storage.set_status(study.id, "finished", ending="generations")


@pytest.fixture(scope="module")
def divergence(served):
    """A study of a divergence, whose own solution is to be within 0.03 nats."""
    spec = SPEC | {"name": "nats", "evaluation": {"max_drop": 0.5}, "output": {"max_drop": 0.03}}
    space = [Integer("k", 2, 256, widest=1024).as_dict()]
    known = {"spec": spec, "baseline": 0.0, "metric_name": "neg_divergence", "space": space}
    store(served, "nats", [-0.4, -0.02, -0.001, -0.00005], **known)
    return "nats"


@pytest.fixture(scope="module")
def lucky(served):
    """A study of an accuracy on few images: every drop may be luck."""
    spec = SPEC | {"name": "lucky", "output": {"max_drop": 0.05}}
    store(served, "lucky", [0.88, 0.89], noise=0.02, spec=spec, baseline=0.9)
    return "lucky"


def test_picking_begins_with_the_drop_that_the_study_itself_takes(served, page, divergence):
    page.goto(f"{served.url}/studies/{divergence}")
    part(page, "pick-bytes").wait_for()
    assert part(page, "limit-drop").input_value() == "0.03"
    assert part(page, "pick-bytes").inner_text() == "20.0 kB"
    assert "--max-drop 0.03" in part(page, "pick-command").inner_text()
    assert part(page, "smallest").inner_text().startswith("20.0 kB")
    assert "max_drop" not in page.url
    part(page, "limit-drop").fill("")
    part(page, "limit-drop").press("Tab")
    page.wait_for_url("**max_drop=none**")
    page.get_by_text("10.0 kB", exact=True).first.wait_for()
    page.reload()
    part(page, "pick-bytes").wait_for()
    assert part(page, "limit-drop").input_value() == ""
    assert part(page, "pick-bytes").inner_text() == "10.0 kB"


LABELS = """() => [...document.querySelectorAll('[data-test=front-chart] text')]
    .map((text) => text.textContent)"""


def test_drops_over_decades_are_drawn_over_decades(served, page, divergence):
    page.goto(f"{served.url}/studies/{divergence}")
    part(page, "pick-bytes").wait_for()
    part(page, "points").wait_for()
    drawn = page.evaluate(LABELS)
    assert {"0.0001", "0.001", "0.01", "0.1"} <= set(drawn)
    assert any("drop below the float network" in text for text in drawn)
    part(page, "log-drop").click()
    page.wait_for_url("**y=linear**")
    page.wait_for_function(f"() => !({LABELS})().includes('0.0001')")


def test_the_space_and_what_the_newest_run_noted_are_shown(served, page, divergence):
    page.goto(f"{served.url}/studies/{divergence}?tab=spec")
    part(page, "space").wait_for()
    searched = part(page, "space").inner_text()
    assert "k from 2 to 256, and on to 1,024 where the front ends at that bound." in searched
    noted = part(page, "notices").inner_text()
    assert "The front ends at a bound of the search" in noted and "Splits overlap" in noted
    assert "run before" not in noted


def test_a_drop_that_may_be_luck_says_so(served, page, lucky, inspect):
    page.goto(f"{served.url}/studies/{lucky}")
    part(page, "pick-bytes").wait_for()
    # 2 points at 2 points of luck are not within 5; 1 point is.
    assert part(page, "pick-bytes").inner_text() == "20.0 kB"
    assert part(page, "pick-drop").inner_text() == "1.00 ± 2.00 pp"
    assert "may well be 5.00 pp on others" in part(page, "pick-noise").inner_text()
    inspect(page, "study-lucky", within=".workbench")
