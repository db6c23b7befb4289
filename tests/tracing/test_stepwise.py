import contextvars
import threading
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moeash.networks.writing.borrowing import Borrowed, TwoVersions
from moeash.tracing import stepwise
from moeash.tracing.stepwise import Stepwise
from moeash.tracing.uses import inputs_of, watch_uses


def images(n=40, shape=(3, 8, 8), seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """Blocks with skip connections, BatchNorms and activations in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(4))
        self.head = nn.Linear(8, 5)
        self.n_passes = 0

    def forward(self, x):
        self.n_passes += 1
        x = F.relu(self.stem(x), inplace=True)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(x + norm(conv(x)), inplace=True)
        return self.head(x.mean((2, 3)))


class Stashing(Plain):
    """What skips a layer lies in an attribute, where another pass finds it."""

    def forward(self, x):
        self.n_passes += 1
        self.skips = F.relu(self.stem(x), inplace=True)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = norm(conv(self.skips))
            self.skips = F.relu(y + self.skips, inplace=True)
        return self.head(self.skips.mean((2, 3)))


class Locking(Plain):
    """One pass at a time."""

    lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return super().forward(x)


class Twice(Plain):
    """One weight is used by two layers."""

    def __init__(self):
        super().__init__()
        self.convs[2] = self.convs[1]


class Single(Plain):
    """Takes no image alone."""

    def forward(self, x):
        if len(x) == 1:
            raise ValueError("one image has no statistics")
        return super().forward(x)


class Attending(nn.Module):
    """One weight in three parts, and one that no module is called for."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x)
        return self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


def uses_of(network, x):
    n_uses = Counter()
    with torch.no_grad(), watch_uses(network, lambda use, x, y: n_uses.update([use.name])):
        network(x[:2])
    return n_uses


def coarser(values):
    return (values * 6).round() / 6


def seen(network, batches, steps_of):
    """Return all inputs of all weights, each coarser in the second version once it was seen."""
    found = []
    with torch.no_grad(), Borrowed(network) as borrowed:
        versions = TwoVersions(borrowed)
        n_uses = uses_of(network, batches[0])
        with steps_of(versions, n_uses) as steps:
            for name in n_uses:
                found += [(name, x.clone(), y.clone()) for _, x, y in steps.inputs(name)]
                versions.replace({name: coarser(borrowed.get(name))})
    return found


class Anew:
    """What the passes of before give: each from the beginning."""

    def __init__(self, versions, n_uses, batches):
        self.versions, self.n_uses, self.batches = versions, n_uses, batches

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def inputs(self, name):
        for batch in self.batches:
            first = inputs_of(self.versions.be_first(), name, self.n_uses[name], batch)
            second = inputs_of(self.versions.be_second(), name, self.n_uses[name], batch)
            for (use, x), (_, y) in zip(first, second, strict=True):
                yield use, x, y


def stepwise_of(batches):
    return lambda versions, n_uses: Stepwise(versions, batches, n_uses)


def made(kind):
    network = kind().eval()
    for norm in getattr(network, "norms", ()):
        nn.init.normal_(norm.running_mean)
    return network


@pytest.fixture(autouse=True)
def nobody_stands_about():
    yield
    assert [t.name for t in threading.enumerate() if t.name == "moeash-run"] == []


@pytest.mark.parametrize("kind", [Plain, Stashing, Locking, Twice, Single, Attending])
def test_inputs_are_those_of_passes_from_the_beginning_to_the_bit(kind, monkeypatch):
    monkeypatch.setattr(stepwise, "PATIENCE_S", 0.5 if kind is Locking else 60)
    network = made(kind)
    batches = images(40, (5, 6) if kind is Attending else (3, 8, 8)).split(15)
    expected = seen(network, batches, lambda *of: Anew(*of, batches))
    got = seen(network, batches, stepwise_of(batches))
    assert [name for name, *_ in got] == [name for name, *_ in expected]
    for (name, x, y), (_, a, b) in zip(got, expected, strict=True):
        assert torch.equal(x, a) and torch.equal(y, b), name
    assert any(not torch.equal(x, y) for _, x, y in got)


@pytest.mark.parametrize(
    ("kind", "n_passes"),
    [
        (Plain, 2 * 3),
        (Stashing, 6 * 2 * 3),  # from the beginning for every layer
        (Twice, (1 + 1 + 1) * 2 * 3),  # up to the one used twice, for it, and from it on
    ],
)
def test_a_network_runs_once_where_it_can_stand_still(kind, n_passes):
    network, batches = made(kind), images().split(15)
    seen(network, batches, stepwise_of(batches))
    count, trial = 1, 4
    assert network.n_passes == count + trial + n_passes


@pytest.mark.parametrize(
    ("name", "most"), [("HELD_BYTES", 100_000), ("MOST_THREADS", 1), ("HELD_BYTES", 0)]
)
def test_what_would_take_too_much_begins_anew(name, most, monkeypatch):
    network, batches = made(Plain), images().split(15)
    expected = seen(network, batches, stepwise_of(batches))
    passes, network.n_passes = network.n_passes, 0
    monkeypatch.setattr(stepwise, name, most)
    got = seen(network, batches, stepwise_of(batches))
    assert network.n_passes > passes
    for (_, x, y), (_, a, b) in zip(got, expected, strict=True):
        assert torch.equal(x, a) and torch.equal(y, b)


def test_weights_may_be_asked_for_again_and_in_any_order():
    network, batches = made(Plain), images().split(15)
    names = ["stem.weight", "head.weight", "head.weight", "convs.1.weight", "head.weight"]
    with torch.no_grad(), Borrowed(network) as borrowed:
        versions = TwoVersions(borrowed)
        n_uses = uses_of(network, batches[0])
        anew = Anew(versions, n_uses, batches)
        versions.replace({"stem.weight": coarser(borrowed.get("stem.weight"))})
        with Stepwise(versions, batches, n_uses) as steps:
            for name in names:
                expected = [(x.clone(), y.clone()) for _, x, y in anew.inputs(name)]
                got = [(x.clone(), y.clone()) for _, x, y in steps.inputs(name)]
                for (x, y), (a, b) in zip(got, expected, strict=True):
                    assert torch.equal(x, a) and torch.equal(y, b), name


def test_an_error_of_the_network_comes_out_where_the_inputs_are_asked_for():
    class Failing(Plain):
        def forward(self, x):
            if self.n_passes > 8:
                raise RuntimeError("of its own")
            return super().forward(x)

    batches = images().split(15)
    with pytest.raises(RuntimeError, match="of its own"):
        seen(made(Failing), batches, stepwise_of(batches))


def test_who_stops_asking_leaves_no_run_and_the_network_as_it_was():
    network, batches = made(Plain), images().split(15)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), torch.no_grad(), Borrowed(network) as borrowed:
        versions = TwoVersions(borrowed)
        with Stepwise(versions, batches, uses_of(network, batches[0])) as steps:
            for _ in steps.inputs("stem.weight"):
                versions.replace({"stem.weight": coarser(borrowed.get("stem.weight"))})
                raise KeyboardInterrupt
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_run_computes_with_as_many_threads_as_its_caller():
    class Counting(Plain):
        def forward(self, x):
            counted.append(torch.get_num_threads())
            return super().forward(x)

    counted, batches, n_threads = [], images().split(15), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        seen(made(Counting), batches, stepwise_of(batches))
    finally:
        torch.set_num_threads(n_threads)
    assert len(counted) == 1 + 4 + 2 * 3
    assert set(counted) == {3}


def test_a_run_has_the_context_of_its_caller():
    scale = contextvars.ContextVar("scale", default=1.0)

    class Scaled(Plain):
        def forward(self, x):
            return super().forward(x * scale.get())

    network, batches = made(Scaled), images().split(15)
    scale.set(2.0)
    expected = seen(network, batches, lambda *of: Anew(*of, batches))
    got = seen(network, batches, stepwise_of(batches))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(got, expected, strict=True))
    assert torch.equal(got[0][1], 2 * batches[0])


def test_autocast_of_the_caller_is_not_lost():
    network, batches = made(Plain), images().split(15)
    with torch.autocast("cpu", torch.bfloat16):
        got = seen(network, batches, stepwise_of(batches))
    assert got[-1][1].dtype == torch.bfloat16
