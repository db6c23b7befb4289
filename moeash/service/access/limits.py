"""How often strangers may fail to log in: longer waits after every failure, in bounded memory."""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5
"""Failures of an address without a wait."""

LONGEST_S = 300.0
"""The longest wait. Waits double from one second on."""

FORGOTTEN_S = 3600.0
"""After which failures no longer count."""

MOST = 10_000
"""Addresses remembered; those that failed longest ago make room."""


@dataclass
class _Failed:
    count: int
    at: float
    until: float


class Failures:
    """Failed logins by address. Safe to use from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_address: OrderedDict[str, _Failed] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Return how many seconds an address has to wait before it may try again; 0: it may."""
        with self._lock:
            failed = self._by_address.get(_network(address))
            return 0.0 if failed is None else max(0.0, failed.until - self._clock())

    def add(self, address: str) -> None:
        """Remember that an address has failed."""
        key, now = _network(address), self._clock()
        with self._lock:
            failed = self._by_address.pop(key, None)
            count = 1 if failed is None or now - failed.at > FORGOTTEN_S else failed.count + 1
            wait = 0.0 if count < FREE else min(2.0 ** min(count - FREE, 30), LONGEST_S)
            self._by_address[key] = _Failed(count, now, now + wait)
            while len(self._by_address) > MOST:
                self._by_address.popitem(last=False)

    def forget(self, address: str) -> None:
        """Forget the failures of an address that has succeeded."""
        with self._lock:
            self._by_address.pop(_network(address), None)

    def __len__(self) -> int:
        return len(self._by_address)


def _network(address: str) -> str:
    """Return what stands for an address: whoever has one of IPv6 has its whole /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
