"""`moeash serve` as a process of its own, and pages of Chromium that look at it."""

import signal
import time
from contextlib import closing, contextmanager

import httpx

from moeash.service.access.auth import Auth
from moeash.study.storage.sql import SqlStorage
from tests.conftest import TINY
from tests.ports import free_port
from tests.servers import started

PATIENCE_S = 120
"""How long anything may take: these machines are busy."""

CHROMIUM_SAYS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
CHROMIUM_ASKS_NOBODY = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

STUDY = TINY.replace('"tiny"', '"NAME"').replace("[60, 160]", "[60, 260]")
STUDY = f"""{STUDY[: STUDY.index("[method]")]}max_drop = 0.1
[search]
population = 12
[merge]
trials = 4
[budget]
generations = 3
"""
"""A study of a real network that takes a second once its process has started."""


LONG_STUDY = (
    STUDY.replace("[0, 60]", "[0, 1500]")
    .replace("[60, 260]", "[1500, 1700]")
    .replace("generations = 3", "generations = 100_000")
    .replace("[search]", '[method]\nname = "uniform"\nk = [2, 20_000]\n[search]')
)
"""A study of the same network that takes minutes, with more to try than any machine gets done."""


def until(get, good, what):
    """Return the first value that is good."""
    deadline = time.monotonic() + PATIENCE_S
    while not good(value := get()):
        assert time.monotonic() < deadline, f"{what}; the last was {value!r}"
        time.sleep(0.1)
    return value


INK = """() => {
    const canvas = document.querySelector('[data-test=front-chart] canvas');
    if (!canvas?.width) return 0;
    const copy = new OffscreenCanvas(canvas.width, canvas.height);
    const readable = copy.getContext('2d', {willReadFrequently: true});
    readable.drawImage(canvas, 0, 0);
    const {data} = readable.getImageData(0, 0, copy.width, copy.height);
    let ink = 0;
    for (let i = 3; i < data.length; i += 4) ink += data[i] > 0;
    return ink;
}"""
"""Counts painted pixels of the front's chart, in a copy: browsers warn of a chart that is read."""


class Served:
    """A service that can be killed and started again at the same address.

    Attributes:
        login: the printed link, which works once.
        cookie: of the session of an admin.
        api: a client with an admin's token.
    """

    def __init__(self, folder):
        self.folder = folder
        self.storage = str(folder / "moeash.db")
        self.port = free_port()
        self.process = None
        self.start()
        with closing(SqlStorage(self.storage)) as storage:
            tokens = Auth(storage.database).tokens
            self.viewer_token = tokens.create("viewer", name="visitor")[1]
            admin = tokens.create("admin", name="tests")[1]
        self.api = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {admin}"},
            timeout=PATIENCE_S,
        )
        own_page = {"Origin": self.url, "Sec-Fetch-Site": "same-origin"}
        answer = self.api.post("/session", json={"token": admin}, headers=own_page)
        (cookie,) = answer.raise_for_status().cookies.jar
        self.api.cookies.clear()
        self.cookie = {"name": cookie.name, "value": cookie.value, "url": self.url}

    def start(self):
        arguments = ("--port", str(self.port), "--storage", self.storage)
        self.process, ready = started(self.folder, *arguments, OMP_NUM_THREADS="1")
        self.url = ready["url"].rstrip("/")
        self.login = ready["login"]

    def kill(self):
        self._end(signal.SIGKILL)

    def close(self):
        for item in self.studies():
            if item["status"] in ("running", "queued"):
                self.api.post(f"/studies/{item['name']}/stop", json={})
        until(
            self.studies,
            lambda items: all(each["status"] not in ("running", "queued") for each in items),
            "a study did not stop",
        )
        self.api.close()
        self._end(signal.SIGTERM)

    def _end(self, number):
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()

    def studies(self):
        return self.api.get("/studies", params={"limit": 200}).raise_for_status().json()["items"]

    def study(self, name):
        return self.api.get(f"/studies/{name}").raise_for_status().json()

    def launch(self, name, toml=STUDY):
        """Start a study of this name."""
        toml = toml.replace("NAME", name)
        self.api.post("/studies", json={"toml": toml}).raise_for_status()

    def wait(self, name, status="finished"):
        return until(
            lambda: self.study(name),
            lambda item: item["status"] == status,
            f"{name} never {status}",
        )


class Watch:
    """What a page said on its console, and whom it asked."""

    def __init__(self, context, origin):
        self.origin = origin
        self.errors = []
        self.foreign = []
        self.allowed = []
        context.on("console", self._console)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", self._request)

    def allow(self, *parts):
        """Let errors pass that a test brings about, by a part of their text."""
        self.allowed += parts

    def check(self):
        bad = [each for each in self.errors if not any(part in each for part in self.allowed)]
        assert not bad, bad
        assert not self.foreign, self.foreign

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} at {message.location.get('url')}")

    def _request(self, request):
        if not request.url.startswith((f"{self.origin}/", "data:", "blob:")):
            self.foreign.append(request.url)


@contextmanager
def browsing(chromium, origin, **options):
    """A browser of one person: its own cookies; nothing wrong was said when it is closed."""
    context = chromium.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce", **options}
    )
    context.set_default_timeout(1000 * PATIENCE_S)
    watch = Watch(context, origin)
    page = context.new_page()
    page.watch = watch
    try:
        yield page
        watch.check()
    finally:
        context.close()


def part(page, name):
    """The element that tests know by this name."""
    return page.locator(f'[data-test="{name}"]')


def counts(page):
    """How many points the chart draws, and of how many evaluations."""
    element = part(page, "points")
    return tuple(int(element.get_attribute(f"data-{name}") or 0) for name in ("shown", "total"))


def more_points_than(page, total):
    """Wait until the page, as it stands, knows more evaluations."""
    page.wait_for_function(
        "least => Number(document.querySelector('[data-test=points]')?.dataset.total) > least",
        arg=total,
    )


def drag(page, *places):
    """Press at the first place of the chart, move over the others, let go; in parts of its size."""
    box = part(page, "front-chart").bounding_box()
    mouse = page.mouse
    for i, (x, y) in enumerate(places):
        mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if i == 0:
            mouse.down()
    mouse.up()
