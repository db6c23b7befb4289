"""Waiting for what other processes do."""

import time

PATIENCE_S = 120.0
"""Nothing takes a tenth of it on a free machine; tests share machines with others."""


def wait_until(condition, patience_s=PATIENCE_S):
    """What the condition returns, once that is true."""
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{condition} did not become true in {patience_s} s"
        time.sleep(0.05)
    return found
