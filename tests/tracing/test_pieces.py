import pytest
import torch
from torch import nn

import moeash
from moeash.data.inputs import Inputs
from moeash.tracing import pieces as module
from moeash.tracing.pieces import pieces


class Net(nn.Module):
    """One input makes 8 * 36 + 5 elements; a norm and a dropout tell the mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout()
        self.fc = nn.Linear(8 * 36, 5)
        self.seen = []

    def forward(self, x):
        self.seen.append((len(x), self.training))
        return self.fc(self.drop(self.norm(self.conv(x)).relu().flatten(1)))


A_PASS = 8 * 36 + 5


def lengths(n, elements):
    network = Net().eval()
    found = [len(piece) for piece in pieces(network, [torch.randn(n, 1, 6, 6)], elements)]
    assert network.seen == [(1, False)], "one input is counted, once"
    return found


@pytest.mark.parametrize(
    ("n", "most", "cut"),
    [(10, 10, [10]), (10, 9, [5, 5]), (10, 4, [4, 4, 2]), (100, 33, [25] * 4), (3, 0, [1, 1, 1])],
)
def test_pieces_are_of_one_length_within_what_a_pass_may_hold(n, most, cut):
    assert lengths(n, most * A_PASS) == lengths(n, (most + 1) * A_PASS - 1) == cut


def test_batches_keep_their_order_and_inputs_of_many_tensors_are_cut_alike():
    network = Net()
    network.forward = lambda x, scale: nn.functional.linear(x * scale, network.fc.weight)
    x, scale = torch.randn(7, 288), torch.randn(7, 1)
    given = [Inputs((x[:4],), {"scale": scale[:4]}), Inputs((x[4:],), {"scale": scale[4:]})]
    found = list(pieces(network, given, 3 * 5))
    assert [len(piece) for piece in found] == [2, 2, 3]
    assert torch.equal(torch.cat([piece.args[0] for piece in found]), x)
    assert torch.equal(torch.cat([piece.kwargs["scale"] for piece in found]), scale)


def test_the_network_is_left_in_its_mode_and_its_statistics_as_they_were():
    network = Net().train()
    before = network.norm.running_mean.clone()
    list(pieces(network, [torch.randn(4, 1, 6, 6)], A_PASS))
    assert network.training and network.seen == [(1, False)]
    assert torch.equal(network.norm.running_mean, before)


def test_a_network_made_for_batches_of_one_length_gets_them_whole():
    class Fixed(Net):
        def forward(self, x):
            return super().forward(x).view(8, 5)

    network, x = Fixed().eval(), torch.randn(16, 1, 6, 6)
    assert [len(piece) for piece in pieces(network, x.split(8), A_PASS)] == [8, 8]
    assert [len(piece) for piece in pieces(network, [x[:8], x], A_PASS)] == [8, 16]


def test_an_empty_batch_is_no_piece():
    assert list(pieces(Net(), [torch.randn(0, 1, 6, 6)], A_PASS)) == []


@pytest.mark.parametrize(
    ("method", "candidate"),
    [
        ("feedback", {"k": 30, "rate": 0.01}),
        ("uniform", {"k": 30}),
    ],
)
def test_no_pass_of_preparing_holds_more_than_a_piece(method, candidate, tmp_path, monkeypatch):
    torch.manual_seed(0)
    network, x = Net().eval(), torch.randn(40, 1, 6, 6)

    monkeypatch.setattr(module, "_inputs_within", lambda *given: 7)
    file = tmp_path / "net.moeash"
    moeash.compress(
        network, file, candidate=candidate, method=method, calibration=x, progress=False
    )
    assert max(n for n, _ in network.seen) <= 7
    assert sum(n for n, _ in network.seen) >= len(x)
