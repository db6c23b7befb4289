"""Every kind of layer is distilled and tuned: its indices move, and what is tied stays tied."""

import numpy as np
import pytest
import torch
from torch import nn

from moeash.core.solutions.candidate import Candidate
from moeash.core.solutions.recipe import Distill, Tune
from moeash.data.unlabelled import Unlabelled
from moeash.methods.registry import build_method
from moeash.methods.training.checkpoints import Checkpoint
from moeash.methods.training.distilling import distill
from moeash.methods.training.options import TrainingOptions
from moeash.methods.training.session import Session
from moeash.methods.training.trainable import LEARNT_FROM
from moeash.methods.training.tuning import tune
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.network import Network
from moeash.networks.parameters import read_state
from tests.contracts.method import prepare
from tests.marks import slow
from tests.methods.training.test_session import Clock


class Convolutions(nn.Module):
    """Grouped, depthwise, dilated and transposed convolutions, and a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.plain = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.transposed = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Linear(4, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.plain(x)))
        x = torch.relu(self.dilated(torch.relu(self.depthwise(torch.relu(self.grouped(x))))))
        return self.last(self.transposed(x).mean((2, 3)))


class Language(nn.Module):
    """An embedding tied to the output, attention and a LayerNorm."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        nn.init.normal_(self.embedding.weight, std=0.3)  # entries suit the attention as well
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.output = nn.Linear(16, 20, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return self.output(x)


def compressed(module):
    """A module as a network, and a solution of it."""
    network = Network(module, read_state(module), type(module).__name__)
    method = build_method(UniformOptions(k=(2, 64)))
    start = method.compress(prepare(method, network, {}), Candidate.of({"k": 8}), network=network)
    return network, start


def inputs_of(kind):
    draws = torch.Generator().manual_seed(0)
    if kind is Language:
        return torch.randint(0, 20, (64, 6), generator=draws)
    return torch.randn(64, 3, 8, 8, generator=draws)


@pytest.mark.parametrize("kind", [Convolutions, Language])
def test_every_kind_of_layer_is_trained(kind):
    torch.manual_seed(1)
    module = kind().eval()
    network, start = compressed(module)
    images = Unlabelled(inputs_of(kind), at_most=64, network=module)
    session = Session(images, TrainingOptions(batch_size=16), 3)

    distilled = distill(Distill(epochs=40, rate=1.0, batch_size=16), start, network, session)
    for before, after in zip(start.shared, distilled.shared, strict=True):
        assert not np.array_equal(before.indices, after.indices), before.name
    assert [t.name for t in distilled.tensors] == [t.name for t in start.tensors]
    decoded = distilled.decoded()
    if kind is Language:
        assert decoded["output.weight"] is decoded["embedding.weight"]
    module.load_state_dict({n: torch.tensor(v) for n, v in decoded.items()})

    tuned = tune(Tune(epochs=2, batch_size=16), distilled, network, session)
    for before, after in zip(distilled.shared, tuned.shared, strict=True):
        assert np.array_equal(before.indices, after.indices)
    assert not np.array_equal(tuned.codebooks[0].entries, distilled.codebooks[0].entries)


class Viewing(nn.Module):
    """A network that asks for one layout of its feature maps."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.output = nn.Linear(4 * 6 * 6, 5)

    def forward(self, x):
        return self.output(self.convolution(x).relu().view(len(x), -1))


@pytest.mark.parametrize("kind", [slow(Convolutions), Viewing, slow(Language)])
def test_every_kind_of_network_is_trained_in_bfloat16(kind):
    torch.manual_seed(1)
    module = kind().eval()
    network, start = compressed(module)
    images = Unlabelled(inputs_of(kind), at_most=64, network=module)
    seen = []

    def look(part, arguments, output):
        last = arguments[0].dim() == 4 and not arguments[0].is_contiguous()
        seen.append((arguments[0].dtype if last else output.dtype, last, torch.is_grad_enabled()))

    def trained(arithmetic):
        session = Session(images, TrainingOptions(batch_size=16, arithmetic=arithmetic), 3)
        return distill(Distill(epochs=10, rate=0.1, learning_rate=0.03), start, network, session)

    exact = trained("float32")
    first = module.norm if kind is Language else next(iter(module.children()))
    with first.register_forward_hook(look):
        fast = trained("bf16")
    assert {dtype for dtype, _, graded in seen if graded} <= {torch.bfloat16, torch.float32}
    layouts = {last for _, last, graded in seen if graded}
    assert layouts == {kind is Convolutions}
    assert fast.fingerprint() != exact.fingerprint()
    assert {t.dtype for t in fast.shared} == {"float32"}
    moved = [
        np.mean(a.indices != b.indices) for a, b in zip(fast.shared, exact.shared, strict=True)
    ]
    assert np.mean(moved) < 0.1, moved


def test_half_precision_weights_stay_what_they_are():
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).to(torch.bfloat16).eval()
    network, start = compressed(module)
    inputs = torch.randn(64, 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    session = Session(Unlabelled(inputs, at_most=64), TrainingOptions(batch_size=16), 3)
    for trained in (
        distill(Distill(epochs=2, rate=0.1, learning_rate=0.2), start, network, session),
        tune(Tune(epochs=2, batch_size=16), start, network, session),
    ):
        assert {t.dtype for t in trained.tensors} == {"bfloat16"}
        assert trained.fingerprint() != start.fingerprint()


class Scaled(nn.Module):
    """A network whose outputs are all multiplied with one number."""

    def __init__(self, n_outputs, scale):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, n_outputs))
        self.scale = scale

    def forward(self, x):
        return self.layers(x) * self.scale


def scaled(n_outputs, scale, rate):
    """Distill; return how many weights have moved, and the solution."""
    inputs = torch.randn(64, 20, generator=torch.Generator().manual_seed(0))
    network, start = compressed(Scaled(n_outputs, scale).eval())
    session = Session(Unlabelled(inputs, at_most=64), TrainingOptions(batch_size=16), 3)
    trained = distill(Distill(epochs=30, rate=rate), start, network, session)
    pairs = zip(start.shared, trained.shared, strict=True)
    moved = sum(np.count_nonzero(before.indices != after.indices) for before, after in pairs)
    return moved, trained.fingerprint()


def test_a_rate_means_the_same_however_large_single_values_are():
    assert scaled(1, 2.0**-15, 0.1) == scaled(1, 2.0**10, 0.1)


def test_weights_move_however_small_the_loss_is():
    moved, _ = scaled(4, 2.0**-12, 0.1 * 2.0**-24)
    assert moved > 100


class Words(nn.Module):
    """An embedding of 40 words, averaged."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.words, self.last = nn.Embedding(40, 16), nn.Linear(16, 4)

    def forward(self, tokens):
        return self.last(self.words(tokens).mean(1))


COMMON, RARE = range(18), 18
"""Words that texts have; the others none has."""


def texts():
    """64 texts of common words, the rare one in one of them."""
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, len(COMMON), (64, 6), generator=draws)
    tokens[5, 2] = RARE
    return tokens


def words_moved(epochs, **where):
    """Distill for so many epochs; return which words have moved, and the solution."""
    network, start = compressed(Words().eval())
    images = Unlabelled(texts(), at_most=64, network=network.module)
    session = Session(images, TrainingOptions(batch_size=16), 3, **where)
    step = Distill(epochs=epochs, rate=1.0, learning_rate=0.1)
    trained = distill(step, start, network, session)
    before, after = (
        next(t.indices for t in shared.shared if t.name == "words.weight").reshape(40, 16)
        for shared in (start, trained)
    )
    return set(np.flatnonzero((before != after).any(1)).tolist()), trained.fingerprint()


def test_words_that_hardly_any_text_has_stay_and_others_move():
    few, _ = words_moved(LEARNT_FROM - 1)
    assert few == set(COMMON)
    more, _ = words_moved(2 * LEARNT_FROM)
    assert more == {*COMMON, RARE}


def test_words_are_counted_on_after_a_kill(tmp_path):
    def stop(what, done, total):
        if done >= 20:
            raise KeyboardInterrupt

    whole = words_moved(2 * LEARNT_FROM)
    kept = {"checkpoint": Checkpoint(tmp_path, "d" * 32), "clock": Clock(60.0)}
    with pytest.raises(KeyboardInterrupt):
        words_moved(2 * LEARNT_FROM, progress=stop, **kept)
    assert words_moved(2 * LEARNT_FROM, **kept) == whole
