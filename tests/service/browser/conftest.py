import contextlib
import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from tests.service.browser.served import (
    CHROMIUM_ASKS_NOBODY,
    CHROMIUM_SAYS,
    Served,
    browsing,
)

WIDTHS = (1280, 390)
THEMES = ("light", "dark")

RUN_AXE = """async (within) => (await axe.run(within, {resultTypes: ['violations']})).violations
    .flatMap(({id, nodes}) => nodes.map((n) => `${id}: ${n.target} ${n.failureSummary}`))"""
TWO_FRAMES = "new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))"
SIDEWAYS = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Chromium:
    """The browser of the system, for the tests of this folder one after the other.

    Not of the session: while it runs, this thread has a loop, beside which the tests of other
    folders could start none.
    """

    def __init__(self):
        self.running = contextlib.ExitStack()
        self.browser = None

    def open(self):
        from playwright.sync_api import sync_playwright

        if self.browser is None:
            program = shutil.which("chromium")
            if program is None:
                pytest.skip("no chromium on PATH; apt-get install chromium")
            launch = self.running.enter_context(sync_playwright()).chromium.launch
            self.browser = launch(
                executable_path=program, args=[*CHROMIUM_SAYS, *CHROMIUM_ASKS_NOBODY]
            )
            self.running.callback(self.browser.close)
        return self.browser

    def close(self):
        self.running.close()
        self.browser = None


CHROMIUM = Chromium()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item, nextitem):
    try:
        return (yield)
    finally:
        if nextitem is None or Path(__file__).parent not in nextitem.path.parents:
            CHROMIUM.close()


@pytest.fixture(scope="module")
def chromium(loopback_only):
    return CHROMIUM.open()


@pytest.fixture(scope="session")
def served(tmp_path_factory, loopback_only):
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


@pytest.fixture
def page(served, chromium):
    """A page of an admin; nothing was wrong on its console at the end, and no other host asked."""
    with browsing(chromium, served.url) as page:
        page.context.add_cookies([served.cookie])
        yield page


@pytest.fixture(scope="session")
def finished(served):
    """The name of a finished study, to be read and never changed."""
    served.launch("finished")
    served.wait("finished")
    return "finished"


@pytest.fixture(scope="session")
def pictures():
    """The folder that pictures of pages are wanted in, or None."""
    folder = os.environ.get("MOEASH_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return folder and Path(folder)


@pytest.fixture(scope="session")
def axe():
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="session")
def inspect(axe, pictures):
    """Look at a page as it stands in every theme and width."""

    def look(page, name, within="html"):
        page.evaluate(axe)  # by the browser's own debugger, which no policy of a page holds up
        wrong = []
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900 if width > 500 else 844})
            for theme in THEMES:
                page.emulate_media(color_scheme=theme, reduced_motion="reduce")
                # Charts are drawn again in the next frame.
                page.evaluate(TWO_FRAMES)
                if pictures:
                    page.evaluate("scrollTo(0, 0)")
                    full = page.locator("dialog[open]").count() == 0
                    page.screenshot(path=pictures / f"{name}-{width}-{theme}.png", full_page=full)
                wrong += [f"{width} {theme}: {each}" for each in page.evaluate(RUN_AXE, within)]
            if sideways := page.evaluate(SIDEWAYS):
                wrong.append(f"{width}: scrolls sideways by {sideways} pixels")
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        assert not wrong, "\n".join(wrong)

    return look
