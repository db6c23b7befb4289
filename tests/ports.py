"""Ports that are free still when whoever is told of one comes to listen there."""

import contextlib
import random
import socket

NOBODYS = range(20_000, 32_768)
"""No connection takes one of them for its own end, and Ray gives none to its workers."""


def free_port():
    """A port nobody listens at now, nor will by chance.

    Drawn from the system: the global state is seeded alike in every worker of the tests, which
    would all be told of the same port and come to listen there one after the other.
    """
    while True:
        port = random.SystemRandom().choice(NOBODYS)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
