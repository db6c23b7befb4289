"""The inputs of a network's weights, one weight after the other, in two versions of it.

Who changes a network layer by layer wants the inputs that each layer has in the network as it was
and in the one changed so far. Two passes from the beginning for every layer are as many passes as
there are layers, twice. Here both versions run once: a run stands still in front of a layer, in a
thread of its own, until the layer has been changed, and goes on from there. One run moves at a
time, so that both versions can have the memory of one network by turns, and no sum depends on who
was faster.

Not every network can stand still: one may keep its input in an attribute, where another run finds
it, or hold a lock. Whether this one can is tried with two inputs first. If not, and for weights
that a run uses more than once, the passes begin anew for every layer. So they do where the runs
would be too many, or would hold too much memory while they stand: at the first layers of networks
of large images, where such passes are short.
"""

import contextvars
import threading
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from moeash.data.inputs import Batch, call
from moeash.networks.devices import device_of
from moeash.networks.sameness import SAME_FUNCTION, distance
from moeash.networks.writing.borrowing import TwoVersions
from moeash.tracing.uses import Use, Uses, input_of, inputs_of
from moeash.tracing.watching import Call, Watcher, tensors_in

HELD_BYTES = 2 << 30
"""Most memory that all runs together may hold while they stand still."""

LIVE = 3
"""Tensors of the size of a layer's input that a run is taken to hold in front of it: the input, one
that skips the layer, and one that is made of both."""

MOST_THREADS = 2048
"""Of all runs: torch starts as many again in each thread that computes as it was told to use."""

PATIENCE_S = 60.0
"""How long a trial may take from one use to the next, before it is taken to wait for ever."""


class _StuckError(Exception):
    """A run has not come to its next use."""


class _Run:
    """One run of a network, which stands still in front of the uses that it is asked for.

    Attributes:
        output: what the network returned, once it has.
    """

    def __init__(self, network: nn.Module, batch: Batch) -> None:
        self.output: object = None
        self._network, self._batch = network, batch
        self._uses = Uses(network)
        self._watcher = Watcher(before=self._stand)
        caller = contextvars.copy_context()
        self._thread = threading.Thread(
            target=caller.run, args=(self._go,), name="moeash-run", daemon=True
        )
        self._wanted: str | None = None
        self._met: tuple[Use, Tensor] | None = None
        self._error: BaseException | None = None
        self._may_go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._over = self._ended = False

    def until(self, name: str | None, patience: float | None = None) -> tuple[Use, Tensor] | None:
        """Go on to the next use of a weight, or to the end; None at the end.

        The inputs are the run's own: they are good until it goes on.

        Raises:
            _StuckError: it has not come there in so many seconds.
        """
        self._wanted, self._met = name, None
        if self._ended:
            return None
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._may_go.release()
        if not self._stands.acquire(timeout=patience):
            raise _StuckError
        if self._error is not None:
            raise self._error
        return self._met

    def end(self) -> None:
        """Let it go no further; where it stands, what it holds is let go."""
        self._over = True
        self._may_go.release()

    def join(self) -> None:
        """Wait until it has ended."""
        if self._thread.ident is not None:
            self._thread.join(PATIENCE_S)

    def _go(self) -> None:
        try:
            with torch.no_grad(), self._watcher:
                self.output = call(self._network, self._batch)
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._stands.release()

    def _stand(self, called: Call) -> None:
        """Stand still in front of a call, if it is the use that is wanted."""
        if self._over:
            self._watcher.end()
        use = None if self._wanted is None else self._uses.of(called)
        if use is None or use.name != self._wanted:
            return
        self._met = use, input_of(called)
        self._stands.release()
        self._may_go.acquire()
        if self._over:
            self._watcher.end()


class Stepwise:
    """The inputs of weights in two versions of a network.

    ``with Stepwise(...) as steps: for use, first, second in steps.inputs(name)``, weight after
    weight in the order of their use. Between two weights the second version may be changed by
    :meth:`moeash.networks.writing.borrowing.TwoVersions.replace`, where no run has been yet.

    Args:
        versions: of the network, in eval mode.
        batches: what it runs on, on any device.
        n_uses: how often a run uses each weight.
    """

    def __init__(
        self, versions: TwoVersions, batches: Sequence[Batch], n_uses: Mapping[str, int]
    ) -> None:
        self._versions, self._batches, self._n_uses = versions, batches, n_uses
        self._runs: list[tuple[_Run, _Run]] = []
        self._held: Mapping[str, int] | None = None

    def __enter__(self) -> "Stepwise":
        return self

    def __exit__(self, *error: object) -> None:
        self._drop()

    @torch.no_grad()
    def inputs(self, name: str) -> Iterator[tuple[Use, Tensor, Tensor]]:
        """Yield the uses of a weight, batch after batch, with its inputs in both versions.

        The inputs are good until the next weight is asked for.
        """
        if self._may_stand(name):
            met = self._go_to(name)
            if met is not None:
                yield from met
                return
        self._drop()
        for batch in self._batches:
            network = self._versions.be_first()
            there = batch.to(device_of(network))
            first = inputs_of(network, name, self._n_uses[name], there)
            second = inputs_of(self._versions.be_second(), name, self._n_uses[name], there)
            for (use, x), (_, y) in zip(first, second, strict=True):
                yield use, x, y

    def _go_to(self, name: str) -> list[tuple[Use, Tensor, Tensor]] | None:
        """Let all runs go on to a weight; None where one of them does not use it any more."""
        network = self._versions.be_first()
        if not self._runs:
            there = [batch.to(device_of(network)) for batch in self._batches]
            self._runs = [(_Run(network, batch), _Run(network, batch)) for batch in there]
        firsts = [first.until(name) for first, _ in self._runs]
        self._versions.be_second()
        seconds = [second.until(name) for _, second in self._runs]
        met = []
        for first, second in zip(firsts, seconds, strict=True):
            if first is None or second is None:
                return None
            met.append((first[0], first[1], second[1]))
        return met

    def _drop(self) -> None:
        """End all runs where they stand."""
        _end([run for pair in self._runs for run in pair])
        self._runs = []

    # ------------------------------------------------------------------ may it stand still?

    def _may_stand(self, name: str) -> bool:
        if self._held is None:
            self._held = self._tried()
        n_inputs = 2 * sum(map(len, self._batches))
        return name in self._held and LIVE * n_inputs * self._held[name] <= HELD_BYTES

    def _tried(self) -> Mapping[str, int]:
        """Return the bytes of one input of every weight that a run may stand in front of.

        Two runs of different inputs go from weight to weight by turns. They have to end with what
        they give one after the other.
        """
        two = next((batch[:2] for batch in self._batches if len(batch) > 1), None)
        once = [name for name, n in self._n_uses.items() if n == 1]
        n_threads = 2 * len(self._batches) * torch.get_num_threads()
        if two is None or not once or n_threads > MOST_THREADS or _autocast():
            return {}
        network = self._versions.be_first()
        singles = [two[:1].to(device_of(network)), two[1:].to(device_of(network))]
        runs = [_Run(network, single.clone()) for single in (*singles, *singles)]
        alone, by_turns = runs[:2], runs[2:]
        held: dict[str, int] = {}
        try:
            for run in alone:
                run.until(None, PATIENCE_S)
            for name in once:
                for run in by_turns:
                    met = run.until(name, PATIENCE_S)
                    if met is None:
                        return {}
                    held[name] = met[1].nbytes
            for run in by_turns:
                run.until(None, PATIENCE_S)
            pairs = zip(alone, by_turns, strict=True)
            return held if all(_alike(a.output, b.output) for a, b in pairs) else {}
        except Exception:  # it fails, or waits, where runs go by turns: passes anew will tell
            return {}
        finally:
            _end(runs)


def _end(runs: Sequence[_Run]) -> None:
    """End runs where they stand. All are told so first: one may wait for what another holds."""
    for run in runs:
        run.end()
    for run in runs:
        run.join()


def _alike(one: object, other: object) -> bool:
    pairs = zip(tensors_in(one), tensors_in(other), strict=True)
    return all(distance(a, b) <= SAME_FUNCTION for a, b in pairs)


def _autocast() -> bool:
    """Return whether the caller runs under autocast, of which his thread alone knows."""
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return any(map(torch.is_autocast_enabled, kinds))
