"""Networks that keep what they made of their weights, and those that only look like it."""

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import moeash
from moeash.data.splits import load_splits
from moeash.errors import InputError
from moeash.evaluation.caches import check_caches
from moeash.evaluation.holdout import outputs_of
from moeash.evaluation.loading import load_network
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from moeash.study.events import Note
from moeash.study.spec.reading import any_spec
from moeash.tracing.derived import following

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
KEEPS = r"keeps what it once made of '{}'"


class Keeping(nn.Module):
    """A layer that keeps what it makes of its weight, in one way or another."""

    def __init__(self, n=8, kind="attribute"):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n, 8) / 3)
        self.kind, self.kept, self.key, self.scale = kind, None, None, None
        self.table, self.numbers = {}, None
        self.register_buffer("buffer", None, persistent=False)

    def train(self, mode=True):
        if mode:
            self.kept = None
        return super().train(mode)

    def made(self):
        return getattr(self, f"made_{self.kind}")()

    def forward(self, x):
        return F.linear(x, self.made())

    def made_attribute(self):
        if self.kept is None:
            self.kept = (self.weight / self.weight.norm(dim=1, keepdim=True)).detach()
        return self.kept

    def made_eval(self):
        return self.weight * 2 if self.training else self.made_attribute()

    def made_buffer(self):
        if self.buffer is None:
            self.buffer = self.weight.detach().t().contiguous()
        return self.buffer.t()

    def made_deleted(self):
        if not hasattr(self, "only_then"):
            self.only_then = self.weight.detach() * 2
        return self.only_then

    def made_table(self):
        if "w" not in self.table:
            self.table["w"] = (self.weight.detach() * 8).round().to(torch.int8)
        return self.table["w"] / 8

    def made_id(self):
        if self.key != id(self.weight):
            self.kept, self.key = self.weight.detach().clone(), id(self.weight)
        return self.kept

    def made_version(self):
        if self.key != self.weight._version:
            self.kept, self.key = self.weight.detach().clone(), self.weight._version
        return self.kept

    def made_compared(self):
        if self.key is None or not torch.equal(self.key, self.weight):
            self.key = self.weight.detach().clone()
            self.kept = self.key * 2
        return self.kept

    def made_refreshed(self):
        if self.kept is None:
            self.kept = torch.empty_like(self.weight)
        return self.kept.copy_(self.weight * 2)

    def made_masked(self):
        if self.kept is None:
            self.kept = torch.ones_like(self.weight).triu()
        return self.weight * self.kept

    def made_view(self):
        if self.kept is None:
            self.kept = self.weight.detach().t()
        return self.kept.t()

    def made_number(self):
        if self.scale is None:
            self.scale = float(self.weight.abs().max())
        return self.weight / self.scale

    def made_numpy(self):
        if self.numbers is None:
            self.numbers = self.weight.detach().numpy().copy()
        return torch.from_numpy(self.numbers)

    def made_lost(self):
        if self.numbers is None:
            self.numbers = self.weight.detach().numpy().copy()
            return self.weight
        return torch.from_numpy(self.numbers)


CERTAIN = ["attribute", "eval", "buffer", "deleted", "table", "id"]
RIGHT = ["version", "compared", "refreshed", "masked", "view"]
DOUBTFUL = ["number", "numpy", "lost"]


def checked(module, run=None, **roles):
    """What the check says of a module that somebody's code runs."""
    network = Network(module, read_state(module, **roles), "here")
    before = copy.deepcopy(module.state_dict())
    try:
        with torch.no_grad(), following(module) as runs:
            (run or (lambda m: m(X)))(module)
        return check_caches(network, runs)
    finally:
        for name, value in module.state_dict().items():
            assert torch.equal(value, before[name]), name
        assert nn.Module.__call__.__module__.startswith("torch"), "calls are still watched"


def network(kind, *, alone=True):
    torch.manual_seed(1)
    first = nn.Identity() if alone else nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    return nn.Sequential(first, Keeping(kind=kind), *([] if alone else [nn.Linear(8, 3)])).eval()


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has_run"])
@pytest.mark.parametrize("alone", [True, False], ids=["whole", "one_layer"])
@pytest.mark.parametrize("kind", CERTAIN)
def test_what_is_kept_of_a_weight_is_an_error_that_names_it_alone(kind, alone, has_run):
    module = network(kind, alone=alone)
    if has_run:
        with torch.no_grad():
            module(X)
    if kind == "id" and has_run:
        assert "may keep what it made of '1.weight'" in checked(module)[0]
        return
    with pytest.raises(InputError, match=KEEPS.format("1.weight") + " and uses it again"):
        checked(module)


def test_of_many_weights_the_first_are_named_and_that_there_are_more():
    module = nn.Sequential(*(Keeping() for _ in range(4))).eval()
    with pytest.raises(InputError, match=r"'0.weight' and 3 more .* '2.weight', …\]"):
        checked(module)


@pytest.mark.parametrize("kind", CERTAIN)
def test_what_was_taken_to_see_that_is_given_back(kind):
    module = network(kind)
    with torch.no_grad():
        expected = module(X)
        with contextlib.suppress(InputError):
            checked(module)
        assert torch.equal(module(X), expected)


@pytest.mark.parametrize("has_run", [False, True], ids=["new", "has_run"])
@pytest.mark.parametrize("kind", RIGHT)
def test_what_follows_its_weights_is_no_news(kind, has_run):
    module = network(kind, alone=False)
    if has_run:
        with torch.no_grad():
            module(X)
    assert checked(module) == ()


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_what_leaves_torch_cannot_be_followed_and_is_a_note(kind):
    (note,) = checked(network(kind, alone=False))
    assert "may keep what it made of '1.weight' when" in note


class Parts(nn.Module):
    """What does not matter: a layer nobody calls, a gate that is shut, a constant of its size."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(8, 4), nn.Linear(8, 9)
        self.gated = nn.Linear(8, 4)
        self.register_buffer("gate", torch.zeros(()))
        self.register_buffer("positions", torch.arange(4.0), persistent=False)

    def forward(self, x):
        return self.used(x) + self.gate * self.gated(x) + self.positions


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.table.weight.requires_grad_(False)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.table(torch.zeros(5, dtype=torch.long)))


class Dead(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
        nn.init.constant_(self[0].bias, -1e6)


class Binary(nn.Linear):
    def __init__(self):
        super().__init__(8, 8)
        with torch.no_grad():
            self.weight.sign_()


def zeros():
    module = Keeping(kind="compared")
    nn.init.zeros_(module.weight)
    return module


def normed():
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(8, 8)),
        parametrizations.spectral_norm(nn.Linear(8, 8)),
        torch.nn.utils.weight_norm(nn.Linear(8, 8)),
        torch.nn.utils.spectral_norm(nn.Linear(8, 8)),
    )


def attention():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (1, 8)), nn.TransformerEncoder(layer, 2), nn.Flatten())


def recurrent():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(8, 4)

        def forward(self, x):
            return self.rnn(x[None])[0]

    return Net()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        Parts,
        Words,
        Dead,
        Binary,
        zeros,
        normed,
        attention,
        recurrent,
        lambda: nn.Linear(8, 1),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)),
    ],
)
def test_weights_that_do_not_matter_or_are_computed_each_time_are_no_news(make):
    torch.manual_seed(0)
    assert checked(make().eval()) == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_no_news_and_no_hiding_place(dtype):
    def run(module):
        module(X.to(dtype))

    assert checked(nn.Linear(8, 8).to(dtype).eval(), run) == ()
    with pytest.raises(InputError, match=KEEPS.format("1.weight")):
        checked(network("buffer").to(dtype), run)


def test_weights_that_are_not_shared_may_be_kept():
    assert checked(network("buffer", alone=False), exclude=["1.weight"]) == ()


def test_parametrizations_cached_for_a_while_are_no_news_and_cached_all_along_an_error():
    module = parametrizations.weight_norm(nn.Linear(8, 8)).eval()

    def run(given):
        with parametrize.cached():
            given(X)
            given(X)

    assert checked(module, run) == ()
    with (
        parametrize.cached(),
        pytest.raises(InputError, match=KEEPS.format(r"parametrizations\.weight\.original\d")),
    ):
        checked(module)


def test_casts_of_autocast_are_no_news_unless_they_outlive_an_evaluation():
    module = nn.Linear(8, 8).eval()

    def run(given):
        with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
            given(X)

    assert checked(module, run) == ()
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(InputError, match=KEEPS.format("weight")),
    ):
        checked(module, lambda given: torch.enable_grad()(given)(X))


def test_what_is_run_again_is_run_under_the_same_conditions():
    def run(given):
        with torch.autocast("cpu", torch.bfloat16):
            given(X.bfloat16())

    with pytest.raises(InputError, match=KEEPS.format("1.weight")):
        checked(network("attribute", alone=False), run)


def test_what_a_network_cannot_do_without_is_given_back_at_once():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift, self.inner = torch.arange(8.0), Keeping()

        def forward(self, x):
            return self.inner(x + self.shift)

    module = Shifted().eval()
    module(X)
    with pytest.raises(InputError, match=KEEPS.format("inner.weight")):
        checked(module)


class Remembering(nn.Linear):
    """Remembers what it returned for what it was given."""

    def __init__(self):
        super().__init__(8, 3)
        self.memory = {}

    def forward(self, x):
        if id(x) not in self.memory:
            self.memory[id(x)] = super().forward(x)
        return self.memory[id(x)]


def test_outputs_kept_by_their_inputs_are_an_error():
    with pytest.raises(InputError, match=KEEPS.format("weight")):
        checked(Remembering().eval())


class Late(nn.Linear):
    """Keeps what it makes on its second pass, as something that warms up first."""

    def __init__(self):
        super().__init__(8, 3)
        self.passes, self.kept = 0, {}

    def forward(self, x):
        self.passes += 1
        if self.passes > 1 and "w" not in self.kept:
            self.kept["w"] = self.weight.detach() * 2
        return F.linear(x, self.kept.get("w", self.weight))


def test_what_is_kept_only_later_is_found_and_nothing_of_other_weights_is_left():
    module = Late().eval()
    with pytest.raises(InputError, match=KEEPS.format("weight")):
        checked(module)
    assert (module.passes, module.kept) == (1, {})


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_scripted_and_traced_networks_are_followed():
    with torch.no_grad():
        traced = torch.jit.trace(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), X)
    assert checked(traced) == ()
    assert checked(torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval())) == ()


@pytest.mark.filterwarnings("ignore:.torch.jit", "ignore::torch.jit.TracerWarning")
def test_networks_may_be_traced_meanwhile():
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    assert checked(plain, lambda module: torch.jit.trace(module, X)(X)) == ()


def test_a_device_without_autocast_is_followed_as_any():
    def on_meta(module):
        assert copy.deepcopy(module).to("meta")(X.to("meta")).is_meta

    assert checked(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), on_meta) == ()


def test_copies_and_parts_and_nothing_at_all_may_be_run():
    def on_a_copy(module):
        copy.deepcopy(module)(X)

    def on_a_part(module):
        module[1](X)

    assert checked(network("attribute"), on_a_copy) == ()
    assert checked(network("attribute"), lambda module: None) == ()
    with pytest.raises(InputError, match=KEEPS.format("1.weight")):
        checked(network("attribute", alone=False), on_a_part)


def test_a_copy_of_what_has_run_already_is_a_note():
    module = network("attribute")
    with torch.no_grad():
        module(X)
    (note,) = checked(module, lambda given: copy.deepcopy(given)(X))
    assert "may keep what it made of '1.weight' when" in note


def test_following_changes_no_bit_and_no_random_number():
    module = network("version", alone=False)
    with torch.no_grad():
        expected = module(X)
        seed = torch.get_rng_state()
        got = []
        assert checked(module, lambda given: got.append(given(X))) == ()
    assert torch.equal(got[0], expected)
    assert torch.equal(torch.get_rng_state(), seed)


def test_a_network_that_fails_with_other_weights_is_measured_all_the_same():
    class Picky(nn.Linear):
        def forward(self, x):
            if float(self.weight.detach().flatten()[0]) != self.first:
                raise ValueError("not these weights")
            return super().forward(x)

    module = Picky(8, 3).eval()
    module.first = float(module.weight.detach().flatten()[0])
    assert checked(module) == ()


# ------------------------------------------------------------------ every way in


def closeness(module):
    with torch.no_grad():
        expected = copy.deepcopy(module)(X)

    def evaluate(given):
        with torch.no_grad():
            return -float((given(X) - expected).square().mean())

    return evaluate


def search(module, evaluate, **options):
    plain = {"generations": 1, "population": 4, "progress": False, **options}
    return moeash.search(module, evaluate=evaluate, **plain)


@pytest.mark.parametrize("kind", ["attribute", "eval"])
def test_a_search_refuses_at_its_opening(kind):
    module, calls = network(kind, alone=False), []
    measure = closeness(module)

    def evaluate(given):
        calls.append(given)
        return measure(given)

    with pytest.raises(InputError, match=KEEPS.format("1.weight")):
        search(module, evaluate)
    assert len(calls) == 1


def test_what_follows_its_weights_by_their_version_is_searched_and_exported(tmp_path):
    module = network("version", alone=False)
    study = search(module, closeness(module), method={"k": [1, 8]})
    assert len({solution.metric for solution in study.front()}) > 1
    report = moeash.export(study, tmp_path / "a.moeash", pick="smallest", progress=False)
    assert report.size_bytes == study.pick("smallest").size_bytes


@pytest.mark.slow
def test_a_doubt_is_a_note_of_the_study():
    module = network("numpy", alone=False)
    events = []
    search(module, closeness(module), progress=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("may keep what it made of '1.weight'" in note for note in notes)


def distance(module):
    return -module(X).abs().mean().item()


MEASURED = {
    "a copy made before": lambda before, given: distance(before),
    "another network": lambda before, given: -1.0,
    "a copy": lambda before, given: distance(copy.deepcopy(given)),
    "a weight": lambda before, given: -given[0].weight.square().mean().item(),
}


@pytest.mark.parametrize("measured", MEASURED)
def test_a_function_that_measures_another_network_is_told(measured):
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    before = copy.deepcopy(module)
    events = []
    search(module, lambda given: MEASURED[measured](before, given), progress=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    told = any("if it measures another network" in note for note in notes)
    assert told is (measured in ("a copy made before", "another network"))
    assert torch.equal(module[0].weight, before[0].weight)


def test_a_doubt_is_a_note_of_a_compression(tmp_path):
    events = []
    module = network("numpy", alone=False)
    to = tmp_path / "a.moeash"
    moeash.compress(module, to, candidate={"k": 4}, calibration=X, progress=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("may keep what it made of '1.weight'" in note for note in notes)


@pytest.mark.slow
def test_an_export_is_not_led_by_what_the_search_was_led_by(tmp_path):
    module = network("version", alone=False)
    study = search(module, closeness(module), method={"k": [1, 8]})
    module[1].kind = "attribute"
    with pytest.raises(InputError, match=KEEPS.format("1.weight")):
        moeash.export(study, tmp_path / "a.moeash", pick="best", progress=False)
    assert not (tmp_path / "a.moeash").exists()


@pytest.mark.parametrize("goal", [{"candidate": {"k": 4}}, {"max_kl": 0.1}], ids=["k", "kl"])
def test_compress_refuses_where_it_has_inputs(tmp_path, goal):
    to = tmp_path / "a.moeash"
    with pytest.raises(InputError, match=KEEPS.format("1.weight")):
        moeash.compress(
            network("attribute", alone=False), to, calibration=X, progress=False, **goal
        )
    assert not to.exists()


class Digits(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(64, 8), Keeping(10, kind)

    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())


def digits(kind="attribute"):
    return Digits(kind)


def spec(kind):
    parts = {"search": [0, 60], "holdout": [60, 120]}
    return {
        "name": "kept",
        "network": {"source": f"{__name__}:digits", "options": {"kind": kind}},
        "data": {
            "source": "digits",
            "splits": {name: {"part": "all", "range": r} for name, r in parts.items()},
        },
        "method": {"k": [1, 8]},
        "search": {"algorithm": "exhaustive"},
        "merge": {"trials": 0},
    }


def test_a_study_of_a_factory_refuses_at_its_opening(tmp_path):
    with pytest.raises(InputError, match=KEEPS.format("last.weight")):
        moeash.run(spec("attribute"), storage=tmp_path / "a.db", progress=False)


def test_a_holdout_is_measured_with_the_decoded_weights_whatever_is_kept():
    task = any_spec(spec("attribute")).task()
    state = load_network(task).module.state_dict()
    other = {name: -value.numpy() for name, value in state.items()}
    found = outputs_of(task, other, ("holdout",), lambda *_: None)["holdout"]
    fresh = digits()
    with torch.no_grad():
        for name, value in fresh.state_dict().items():
            value.copy_(torch.tensor(other[name]))
    (images, _) = next(iter(load_splits(task.data)["holdout"].batches(60)))
    with torch.no_grad():
        torch.testing.assert_close(found.decoded, fresh(images))
        torch.testing.assert_close(found.exact, digits()(images))
