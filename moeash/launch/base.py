"""What is to be launched, and the contract of whoever launches studies."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from moeash.errors import InputError
from moeash.exports.formats.names import FORMATS, FormatName
from moeash.study.storage.team.launch import INTERRUPTED, LaunchRecord
from moeash.study.storage.team.launches import STOPPED

StateName = Literal["pending", "running", "stopped", "succeeded", "failed"]
PickName = Literal["smallest", "knee", "best"]


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
        folder: where a process of this machine works, so that relative paths mean what they meant
            to whoever wrote them; None: the launch's own folder. A job has a folder of its own.
    """

    study: str
    spec: str
    settings: tuple[str, ...] = ()
    storage: str | None = None
    retry_failed: bool = False
    accept_baseline: bool = False
    folder: str | None = None

    @property
    def flags(self) -> list[str]:
        """The flags of the command that runs it, behind the spec."""
        flags = [word for setting in self.settings for word in ("--set", setting)]
        if self.retry_failed:
            flags.append("--retry-failed")
        if self.accept_baseline:
            flags.append("--accept-baseline")
        return flags

    def request(self) -> dict[str, Any]:
        """Return what is stored of it: not the storage, which may have a password in its URL."""
        return {
            "spec": self.spec,
            "settings": list(self.settings),
            "retry_failed": self.retry_failed,
            "accept_baseline": self.accept_baseline,
            "folder": self.folder,
        }


@dataclass(frozen=True)
class Export:
    """A solution to export.

    Attributes:
        study: of the solution.
        pick: which solution of the front; None means the smallest, or that ``id`` names one.
        id: its number.
        max_drop: only solutions at most this far below the float network.
        max_bytes: only solutions of at most so many bytes.
        formats: of the files.
        allow_modules: modules whose functions may run where the stored study names them.
    """

    study: str
    pick: PickName | None = None
    id: int | None = None
    max_drop: float | None = None
    max_bytes: int | None = None
    formats: tuple[FormatName, ...] = ("moeash",)
    allow_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = (self.pick, self.max_drop, self.max_bytes)
        if self.id is not None and any(limit is not None for limit in limits):
            raise InputError("id names one solution, so pick and its limits have no use beside it")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise InputError(
                f"formats {list(self.formats)} are not to be had; known are {', '.join(FORMATS)}"
            )

    def request(self) -> dict[str, Any]:
        """Return what is stored of it."""
        values = asdict(self)
        del values["study"]
        return values | {"formats": list(self.formats), "allow_modules": list(self.allow_modules)}


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

    @classmethod
    def of(cls, record: LaunchRecord) -> "State":
        """Return where a launch stands."""
        message = record.message or ""
        if record.state == "queued":
            return cls("pending", "it waits for its turn")
        if record.state == "running":
            return cls("running")
        if record.exit_code == 0:
            return cls("succeeded")
        stopped = record.exit_code == INTERRUPTED or record.message == STOPPED
        return cls("stopped" if stopped else "failed", message)


class Launcher(Protocol):
    """Runs studies in processes that outlive this one, at most one for a study.

    A launcher remembers nothing of its own: whoever knows the name of a study finds its process.
    """

    def start(self, launch: Launch, requested_by: str = "terminal") -> bool:
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

    def place(self, study: str) -> Mapping[str, Any]:
        """Return how the last run of a study is found by people: plain values by name."""
        ...

    def log(self, study: str, *, follow: bool = False) -> Iterator[str]:
        """Yield what a study has printed, in pieces; with ``follow`` until it has ended.

        Raises:
            InputError: it was never started.
        """
        ...


def launch_of_request(study: str, request: Mapping[str, Any]) -> Launch:
    """Return the launch that was stored.

    Raises:
        InputError: it is not what moeash stores.
    """
    try:
        return Launch(
            study,
            str(request["spec"]),
            tuple(map(str, request["settings"])),
            None,
            bool(request["retry_failed"]),
            bool(request["accept_baseline"]),
            None if request["folder"] is None else str(request["folder"]),
        )
    except (KeyError, TypeError) as error:
        raise _foreign(study, error) from error


def export_of_request(study: str, request: Mapping[str, Any]) -> Export:
    """Return the export that was stored.

    Raises:
        InputError: it is not what moeash stores.
    """
    try:
        values = dict(request)
        for name in ("formats", "allow_modules"):
            values[name] = tuple(map(str, values[name]))
        return Export(study, **values)
    except (KeyError, TypeError) as error:
        raise _foreign(study, error) from error


def _foreign(study: str, error: Exception) -> InputError:
    return InputError(f"this launch of study {study!r} was not stored by moeash: {error}")
