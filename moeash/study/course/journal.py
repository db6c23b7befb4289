"""Where the events of a study go: to storage, and to whoever listens in this process."""

import time
from collections.abc import Callable

from moeash.study.events import Doing, Event, GenerationEnded, Listen, Note
from moeash.study.storage.base import Storage
from moeash.study.storage.records import GenerationRecord

ACTIVITY_EVERY_S = 1.0
"""Passing events are stored at most so often: they tell people what is going on, nothing more."""

PACES = 1000
"""Pieces of work, one a worker or so, whose pace is remembered."""


class Journal:
    """Passes events on. Those before the study exists are stored as soon as it does."""

    def __init__(
        self, storage: Storage, listen: Listen, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._listen = listen
        self._clock = clock
        self._study_id: int | None = None
        self._early: list[Event] = []
        self._last_activity = float("-inf")
        self._paces: dict[str, tuple[float, int]] = {}
        """When each piece of work was first told of and how far it was; the latest comes last."""

    def begin(self, study_id: int) -> None:
        """Store what has happened so far, and from now on everything at once."""
        self._study_id = study_id
        if self._early:
            self._storage.add_events(study_id, self._early)
            self._early = []

    def say(self, event: Event) -> None:
        """Store an event and pass it on."""
        self._listen(event)
        if not event.lasting:
            self._show(event)
        elif self._study_id is None:
            self._early.append(event)
        else:
            self._storage.add_events(self._study_id, [event])

    def pass_on(self, event: Event) -> None:
        """Tell the listener of an event that was stored together with what it is about."""
        self._listen(event)

    def end_generation(self, generation: GenerationRecord) -> None:
        """Store a generation, unless replay brings one that is stored, and say that it ended."""
        assert self._study_id is not None
        self._storage.put_generation(self._study_id, generation)
        self._listen(GenerationEnded(generation))

    def note(self, text: str) -> None:
        """Say something a person should know."""
        self.say(Note(text))

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Say how far a step of work is, and how long it will take at the pace it has.

        Args:
            what: the work, and behind the last colon what changes as it goes on.
            done: units of it.
            total: units of it in all; None where nobody knows.
        """
        now = self._clock()
        work = what.rpartition(": ")[0] or what
        since, first = self._paces.pop(work, (now, done))
        if done <= first:
            since, first = now, done
        self._paces[work] = since, first
        if len(self._paces) > PACES:
            del self._paces[next(iter(self._paces))]
        left = None
        if total is not None and done > first:
            left = (now - since) / (done - first) * (total - done)
        self.say(Doing(what, done, total, left))

    def _show(self, event: Event) -> None:
        now = self._clock()
        if self._study_id is not None and now - self._last_activity >= ACTIVITY_EVERY_S:
            self._last_activity = now
            self._storage.set_activity(self._study_id, event)
