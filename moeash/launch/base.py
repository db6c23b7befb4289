"""What a study needs to be started elsewhere, and the contract of whoever starts it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

StateName = Literal["pending", "running", "stopped", "succeeded", "failed"]


@dataclass(frozen=True)
class Launch:
    """A study to start.

    Attributes:
        study: its name.
        spec: its spec, as TOML.
        settings: overrides of the spec, ``KEY=VALUE`` each.
        storage: database URL or path, as it is valid where the study will run; None: what
            ``MOEASH_STORAGE`` says there.
        retry_failed: evaluate again what has failed through no fault of its own.
        accept_baseline: continue although the float network is another function than it was.
    """

    study: str
    spec: str
    settings: tuple[str, ...] = ()
    storage: str | None = None
    retry_failed: bool = False
    accept_baseline: bool = False


@dataclass(frozen=True)
class State:
    """Where the process of a study stands.

    Attributes:
        name: in one word.
        message: why it has failed, or why it waits; one line, empty when there is nothing to say.
    """

    name: StateName
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more unless the study is started again."""
        return self.name not in ("pending", "running")


class Launcher(Protocol):
    """Runs studies in processes that outlive this one, at most one for a study.

    A launcher remembers nothing of its own: whoever knows the name of a study finds its process.
    """

    def start(self, launch: Launch) -> bool:
        """Run a study, or continue it; return whether it had to be started.

        Raises:
            InputError: the study cannot run there as it is described.
            BackendError: the place cannot be reached, or refuses.
        """
        ...

    def stop(self, study: str) -> State:
        """End a study and wait until it has ended; everything evaluated is stored.

        Raises:
            InputError: it was never started.
            BackendError: it does not end, or the place cannot be reached.
        """
        ...

    def state(self, study: str) -> State | None:
        """Return where a study stands; None when it was never started."""
        ...

    def log(self, study: str, *, follow: bool = False) -> Iterator[str]:
        """Yield what a study has printed, in pieces; with ``follow`` until it has ended.

        Raises:
            InputError: it was never started.
        """
        ...
