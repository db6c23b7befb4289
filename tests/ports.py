"""Ports that are free still when whoever is told of one comes to listen there."""

import contextlib
import random
import socket

NOBODYS = range(20_000, 32_768)
"""No connection takes one of them for its own end, and Ray gives none to its workers."""


def free_port():
    """A port nobody listens at now, nor will by chance."""
    while True:
        port = random.choice(NOBODYS)
        with contextlib.suppress(OSError), socket.socket() as s:
            s.bind(("127.0.0.1", port))
            return port
