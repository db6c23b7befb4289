"""optuna-dashboard and moeash's service on studies of one size, asked for the same things.

    python3 -m venv od && od/bin/pip install optuna==5.0.0 optuna-dashboard==0.21.0
    PYTHONPATH=. python studies/comparison/peer_optuna_dashboard.py od --to optuna_dashboard.json

Each has its own database (SQLite) of 50,000 evaluations with two objectives. Both are asked what
their pages ask, one request at a time on loopback, in turns, by one client. optuna-dashboard's page
takes list, trials and Pareto front from two answers: all trials come with the study, and later only
newer ones. moeash's page asks for the study, the front and the thinned points of the chart, so the
three together stand against optuna-dashboard's study.
"""

import argparse
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

N = 50_000
PATIENCE_S = 120


def build(database: Path) -> None:
    """Store a study of Optuna; runs in its environment.

    Optuna writes the first trial, and the others are rows like it: one by one, they would take an
    hour.
    """
    import optuna

    study = optuna.create_study(
        study_name="many", storage=f"sqlite:///{database}", directions=["minimize", "maximize"]
    )
    distributions = {
        "k": optuna.distributions.IntDistribution(1, N),
        "rate": optuna.distributions.FloatDistribution(0, N),
    }
    rng = np.random.default_rng(0)

    def measured() -> tuple[int, float]:
        size_bytes = int(rng.integers(10_000, 200_000))
        return size_bytes, 0.5 + 0.4 * size_bytes / 200_000 * float(rng.uniform(0.5, 1))

    study.add_trial(
        optuna.trial.create_trial(
            params={"k": 1, "rate": 1 / 7}, distributions=distributions, values=measured()
        )
    )
    connection = sqlite3.connect(database)

    def repeat(table: str, column: str, key: str, value: Callable[[int, str], float]) -> None:
        connection.row_factory = sqlite3.Row
        (id_,) = (
            row["name"] for row in connection.execute(f"PRAGMA table_info({table})") if row["pk"]
        )
        for row in connection.execute(f"SELECT * FROM {table}").fetchall():
            names = [name for name in tuple(row.keys()) if name != id_ or table == "trials"]
            changed = {"trial_id": lambda n: n, column: lambda n, r=row: value(n, r[key])}
            rows = [
                [changed[name](n) if name in changed else row[name] for name in names]
                for n in range(2, N + 1)
            ]
            marks = ", ".join("?" * len(names))
            connection.executemany(
                f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", rows
            )

    values = [measured() for _ in range(N + 1)]
    repeat("trials", "number", "number", lambda n, _: n - 1)
    repeat("trial_params", "param_value", "param_name", lambda n, k: n if k == "k" else n / 7)
    repeat("trial_values", "value", "objective", lambda n, objective: values[n][int(objective)])
    connection.commit()
    connection.close()


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def measure(peer: Path, folder: Path, rounds: int) -> dict[str, object]:
    """Serve both and ask them in turns."""
    import httpx

    from tests.long_study import write_long_study

    theirs, ours = folder / "optuna.db", folder / "moeash.db"
    python = peer / "bin" / "python"
    subprocess.run([python, __file__, str(peer), "--build", str(theirs)], check=True)
    write_long_study(str(ours), "many")
    port, own_port = free_port(), free_port()
    environment = os.environ | {"MOEASH_STORAGE": str(ours)}
    moeash = [sys.executable, "-m", "moeash"]
    made = subprocess.run(
        [*moeash, "token", "create", "--role", "viewer", "--json"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    token = {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}
    dashboard = peer / "bin" / "optuna-dashboard"
    servers = [
        subprocess.Popen(
            [dashboard, f"sqlite:///{theirs}", "--port", str(port), "--host", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ),
        subprocess.Popen(
            [*moeash, "serve", "--port", str(own_port)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ),
    ]
    api = f"http://127.0.0.1:{port}/api/studies"
    own = f"http://127.0.0.1:{own_port}/api/v1/studies"
    try:
        with httpx.Client(timeout=PATIENCE_S, headers=token) as client:
            _wait(client, api)
            _wait(client, own)
            id_ = client.get(api).json()["study_summaries"][0]["study_id"]
            n = N - 20
            asked = {
                "list": (api, own),
                "study": (f"{api}/{id_}?after=0", f"{own}/many"),
                "front": (None, f"{own}/many/front"),
                "points": (None, f"{own}/many/points"),
                "newer points": (f"{api}/{id_}?after={n}", f"{own}/many/points?after={n}"),
            }
            return {name: _pair(client, urls, rounds) for name, urls in asked.items()}
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def _wait(client: object, url: str) -> None:
    import httpx

    assert isinstance(client, httpx.Client)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if client.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")


def _pair(client: object, urls: tuple[str | None, str], rounds: int) -> dict[str, object]:
    import httpx

    assert isinstance(client, httpx.Client)
    took: tuple[list[float], list[float]] = ([], [])
    sizes = [0, 0]
    for round_ in range(rounds + 1):  # the first warms both
        for i, url in enumerate(urls):
            if url is None:
                continue
            start = time.perf_counter()
            answer = client.get(url)
            seconds = time.perf_counter() - start
            answer.raise_for_status()
            sizes[i] = len(answer.content)
            if round_:
                took[i].append(seconds)
    found: dict[str, object] = {}
    for name, url, seconds_, size in zip(
        ("optuna-dashboard", "moeash"), urls, took, sizes, strict=True
    ):
        if url is not None:
            p50, p95 = (round(1000 * float(q), 1) for q in np.quantile(seconds_, [0.5, 0.95]))
            path = re.sub(r"^http://[^/]+", "", url)
            found[name] = {"path": path, "p50_ms": p50, "p95_ms": p95, "bytes": size}
    return found


def main() -> None:
    """Build and measure, or only build, in the environment of the peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("peer", type=Path, help="virtual environment of optuna-dashboard")
    parser.add_argument("--build", type=Path, help="only store Optuna's study in this file")
    parser.add_argument("--rounds", type=int, default=20, help="requests of each kind")
    parser.add_argument("--to", type=Path, default=Path("optuna_dashboard.json"))
    arguments = parser.parse_args()
    if arguments.build is not None:
        build(arguments.build)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(arguments.peer.absolute(), Path(folder), arguments.rounds)
    document = {"evaluations": N, "requests": arguments.rounds, "asked": found}
    arguments.to.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
