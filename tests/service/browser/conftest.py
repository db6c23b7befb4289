import os
import shutil
from pathlib import Path

import pytest

from tests.service.browser.served import (
    CHROMIUM_ASKS_NOBODY,
    CHROMIUM_SAYS,
    Served,
    browsing,
    part,
)


@pytest.fixture(scope="package")
def chromium(loopback_only):
    """The browser of the system.

    Of the package, not of the session: while it runs, this thread has a loop, in which the tests
    of other folders could start none.
    """
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on PATH; apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=[*CHROMIUM_SAYS, *CHROMIUM_ASKS_NOBODY]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def served(tmp_path_factory, chromium):
    served = Served(tmp_path_factory.mktemp("served"))
    yield served
    served.close()


@pytest.fixture(scope="package")
def admin_state(served, chromium):
    """Cookies of one who came through the printed link, which works once."""
    with browsing(chromium, served.url) as page:
        page.goto(served.login)
        part(page, "who").wait_for()
        yield page.context.storage_state()


@pytest.fixture
def page(served, chromium, admin_state):
    """A page of an admin; nothing was wrong on its console at the end, and no other host asked."""
    with browsing(chromium, served.url, storage_state=admin_state) as page:
        yield page


@pytest.fixture(scope="package")
def finished(served):
    """The name of a finished study, to be read and never changed."""
    served.launch("finished")
    served.wait("finished")
    return "finished"


@pytest.fixture(scope="package")
def pictures():
    """The folder that pictures of pages are wanted in, or None."""
    folder = os.environ.get("MOEASH_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
    return folder and Path(folder)
