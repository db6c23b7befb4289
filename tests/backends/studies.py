"""A small real study, and methods that misbehave on purpose."""

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from moeash.methods.uniform.method import Uniform
from moeash.study.events import Evaluated, ignore
from moeash.study.plan import Plan
from moeash.study.run import run
from moeash.study.spec.reading import parse_spec
from moeash.study.storage.sql import SqlStorage

SMALL_RAY = {
    "include_dashboard": False,
    "log_to_driver": False,
    "logging_level": "ERROR",
    "object_store_memory": 128 << 20,
}
"""Arguments of ``ray.init`` for a Ray inside the tests' process."""


def spec(name="digits", **changes):
    """The digits study with a budget of seconds; ``search__population=4`` sets a nested key."""
    plain = {
        "name": name,
        "network": {"source": "digits-cnn"},
        "data": {
            "source": "digits",
            "splits": {"search": {"part": "all", "count": 200, "seed": 0}},
        },
        "evaluation": {"batch_size": 50, "threads": 1, "max_drop": 0.3},
        "method": {"name": "uniform", "k": [2, 40]},
        "search": {"population": 8},
        "budget": {"generations": 3},
        "merge": {"trials": 4, "max_drop": 0.05},
    }
    for key, value in changes.items():
        *tables, last = key.split("__")
        here = plain
        for table in tables:
            here = here.setdefault(table, {})
        here[last] = value
    return plain


def toml(plain, prefix=""):
    """Write the plain values that specs are made of as TOML."""
    lines = [f"{k} = {json.dumps(v)}" for k, v in plain.items() if not isinstance(v, dict)]
    for key, value in plain.items():
        if isinstance(value, dict):
            lines += [f"[{prefix}{key}]", *toml(value, f"{prefix}{key}.").splitlines()]
    return "\n".join(lines) + "\n"


def on_ray(**changes):
    return {"kind": "ray", "workers": 2, **changes}


class Listener:
    """Keeps the events of a study, and calls ``at`` when so many evaluations are stored."""

    def __init__(self, at=None):
        self.events = []
        self.at = dict(at or {})
        self.n = 0

    def __call__(self, event):
        self.events.append(event)
        if isinstance(event, Evaluated) and not event.stored_before:
            self.n += 1
            if self.n in self.at:
                self.at.pop(self.n)()

    def of(self, kind):
        """The events of one kind."""
        return [event for event in self.events if event.kind == kind]

    @property
    def notes(self):
        """What a person was told."""
        return [event.text for event in self.of("note")]

    @property
    def new(self):
        """Keys of what was evaluated."""
        return [e.record.job.key for e in self.of("evaluated") if not e.stored_before]

    @property
    def known(self):
        """Keys of what storage answered."""
        return [e.record.job.key for e in self.of("evaluated") if e.stored_before]


def run_study(folder, plain, *, method=None, listen=ignore, make_backend=None):
    """Run a study in a database of its own, optionally with another method."""
    from dataclasses import replace

    plan = Plan.from_spec(parse_spec(plain))
    if method is not None:
        plan = replace(plan, task=replace(plan.task, method=method))
    storage = SqlStorage(str(Path(folder) / f"{plain['name']}.db"))
    return run(plan, storage, make_backend or plan.make_backend, listen)


def sequence(study):
    """Everything of a study's evaluations that must not depend on where they ran."""
    return [
        (
            r.number,
            r.stage,
            r.generation,
            r.parent,
            r.job,
            r.outcome.status,
            r.outcome.metric,
            r.outcome.bound,
            r.outcome.sizes,
            r.outcome.fingerprint,
            r.outcome.n_batches,
        )
        for r in study.evaluations()
    ]


def front(study):
    return [(s.id, s.metric, s.size_bytes) for s in study.front()]


@dataclass(frozen=True)
class Faulty(Uniform):
    """Uniform bins, but some k do something terrible to whoever compresses them."""

    folder: str = ""
    fates: dict[int, str] = field(default_factory=dict)
    slow_s: float = 0.0

    def compress(self, prepared, candidate, **way):
        k = int(candidate["k"])
        (Path(self.folder) / f"pid-{os.getpid()}").touch()
        marker = Path(self.folder) / f"tried-{k}"
        tried = marker.exists()
        with marker.open("a") as handle:
            handle.write("x")
        time.sleep(self.slow_s)
        match self.fates.get(k):
            case "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                time.sleep(3600)
            case "raise":
                raise ValueError("this candidate raises")
            case "flaky" if not tried:
                os.kill(os.getpid(), signal.SIGKILL)
            case "hog":
                held = []
                for _ in range(110):
                    held.append(bytearray(100 << 20))
                time.sleep(60)  # the monitor looks ten times a second, and may be kept from it
                raise AssertionError("eleven gigabytes, and the memory monitor did not act")
        return super().compress(prepared, candidate, **way)


@dataclass(frozen=True)
class Preparing(Uniform):
    """Uniform bins; every preparation leaves a line in a file, in whatever process."""

    file: str = ""

    def prepare(self, preparation):
        with Path(self.file).open("a") as handle:
            handle.write(f"{os.getpid()}\n")
        return super().prepare(preparation)


@dataclass(frozen=True)
class PreparingSlowly(Uniform):
    """Uniform bins; the preparation takes two seconds and says how far it is."""

    def prepare(self, preparation):
        for step in range(4):
            preparation.progress("preparing slowly", step, 4)
            time.sleep(0.5)
        return super().prepare(preparation)


def pids(folder):
    """The processes that compressed something."""
    return [int(p.name.removeprefix("pid-")) for p in Path(folder).glob("pid-*")]


def tries(folder, k):
    path = Path(folder) / f"tried-{k}"
    return len(path.read_text()) if path.exists() else 0
