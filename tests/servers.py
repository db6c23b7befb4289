"""`moeash serve` as a process of its own."""

import json
import os
import subprocess
import sys


def started(folder, *arguments, **environ):
    """Start it in a folder; return its process and what it told once it listens.

    Its log, ``serve.log`` there, goes on from one start to the next, and is what is said of a
    server that ends before it listens.
    """
    log = folder / "serve.log"
    with log.open("a") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "moeash", "serve", "--json", *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=os.environ | environ,
        )
    told = ""  # a document of several lines
    while not told.endswith("}\n"):
        line = process.stdout.readline()
        assert line, log.read_text()
        told += line
    return process, json.loads(told)
