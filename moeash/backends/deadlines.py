"""Deadlines of workers, at most one each, the earliest first."""

import heapq


class Deadlines:
    """A heap whose outdated entries are skipped, and removed when they are too many."""

    def __init__(self) -> None:
        self._at: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def __len__(self) -> int:
        """Return the entries in memory, outdated ones included."""
        return len(self._heap)

    def set(self, worker: int, at: float) -> None:
        """Give a worker a deadline in the place of the one it has."""
        self._at[worker] = at
        heapq.heappush(self._heap, (at, worker))
        if len(self._heap) > 64 + 4 * len(self._at):
            # Most work ends long before its deadline; without this the entries would pile up.
            self._heap = [(at, worker) for worker, at in self._at.items()]
            heapq.heapify(self._heap)

    def drop(self, worker: int) -> None:
        """Let a worker have none."""
        self._at.pop(worker, None)

    def earliest(self) -> float | None:
        """Return the next deadline; None when there is none."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[int]:
        """Return the workers whose deadline has come, and drop it."""
        due = []
        while (at := self.earliest()) is not None and at <= now:
            worker = heapq.heappop(self._heap)[1]
            del self._at[worker]
            due.append(worker)
        return due
