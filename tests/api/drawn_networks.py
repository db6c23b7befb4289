"""Small networks drawn by hypothesis: layers, norms put to usual and odd uses, buffers."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

WIDTH = 6


class Doubled(nn.BatchNorm1d):
    """A norm of somebody's own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Doubled2d(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def along(vector, x):
    return vector.view(1, -1, *[1] * (x.ndim - 2))


def plain(part, x):
    return part.norm(part.layer(x))


def norm_first(part, x):
    return part.layer(torch.relu(part.norm(x)))


def layer_read_twice(part, x):
    y = part.layer(x)
    return part.norm(y) + y


def norm_called_twice(part, x):
    return part.norm(part.layer(part.norm(x)))


def reads_mean(part, x):
    return part.norm(part.layer(x)) + along(part.norm.running_mean, x)


def reads_variance(part, x):
    return part.norm(part.layer(x)) * along(part.norm.running_var, x).rsqrt()


def reads_weight(part, x):
    return part.norm(part.layer(x)) * along(part.norm.weight, x)


def reads_statistics_elsewhere(part, x):
    return part.layer(x * part.norm.running_var.mean()) + along(part.norm.bias, x)


def functional(part, x):
    norm = part.norm
    return F.batch_norm(
        part.layer(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )


def functional_of_another_eps(part, x):
    norm = part.norm
    return F.batch_norm(
        part.layer(x), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=0.3
    )


def batch_statistics(part, x):
    norm = part.norm
    return F.batch_norm(part.layer(x), None, None, norm.weight, norm.bias, training=True)


def by_hand(part, x):
    norm, y = part.norm, part.layer(x)
    deviation = torch.sqrt(along(norm.running_var, x) + norm.eps)
    normalised = (y - along(norm.running_mean, x)) / deviation
    return normalised * along(norm.weight, x) + along(norm.bias, x)


def blended(part, x):
    """As domain adaptation does: the layer's own statistics beside the running ones."""
    y = part.layer(x)
    axes = [0, *range(2, y.ndim)]
    mean = 0.5 * along(part.norm.running_mean, x) + 0.5 * y.mean(axes, keepdim=True)
    return part.norm(y) + mean


def unseen_reader(part, x):
    y = part.layer(x)
    z = part.norm(y)
    with torch._C.DisableTorchFunction():
        return z + y


def residual(part, x):
    return x + part.norm(part.layer(x))


def unused_norm(part, x):
    return part.layer(x)


USES = [
    plain,
    norm_first,
    layer_read_twice,
    norm_called_twice,
    reads_mean,
    reads_variance,
    reads_weight,
    reads_statistics_elsewhere,
    functional,
    functional_of_another_eps,
    batch_statistics,
    by_hand,
    blended,
    unseen_reader,
    residual,
    unused_norm,
]


def frequencies(part, x):
    """A rotation by positions times frequencies, as rotary positions are."""
    angles = 3000 * part.buffer
    return x * along(torch.cos(angles), x) + 0.1


def table(part, x):
    return x + along(part.buffer, x)


def ignored(part, x):
    return x


BUFFERS = [frequencies, table, ignored]


@dataclass(frozen=True)
class Block:
    """One layer, one norm, and what is done with both.

    Attributes:
        kind: of the norm.
        centre: how far running means are from 0, in standard deviations.
        spread: of the layer's outputs.
    """

    use: object
    kind: str
    bias: bool
    eps: float
    centre: float
    spread: float
    gain: float
    buffer: object


class Part(nn.Module):
    def __init__(self, block, spatial):
        super().__init__()
        self.block = block
        layer = nn.Conv2d if spatial else nn.Linear
        self.layer = layer(WIDTH, WIDTH, **({"kernel_size": 1} if spatial else {}), bias=block.bias)
        kinds = (nn.BatchNorm2d, Doubled2d) if spatial else (nn.BatchNorm1d, Doubled)
        kind = kinds[block.kind == "subclass"]
        self.norm = kind(WIDTH, eps=block.eps, momentum=None)
        self.register_buffer("buffer", 1 / 10000 ** (torch.arange(WIDTH) / 3.7))

    def forward(self, x):
        x = self.block.buffer(self, x)
        return self.block.use(self, x) * self.block.gain


@dataclass(frozen=True)
class Drawing:
    """A network.

    Attributes:
        branch: every other block is added to what it reads.
    """

    seed: int
    spatial: bool
    blocks: tuple[Block, ...]
    branch: bool

    def network(self):
        return Drawn(self.seed, self.spatial, self.blocks, self.branch).eval()


class Drawn(nn.Module):
    def __init__(self, seed, spatial, blocks, branch):
        super().__init__()
        torch.manual_seed(seed)
        self.spatial, self.branch = spatial, branch
        self.parts = nn.ModuleList(Part(block, spatial) for block in blocks)
        self.head = nn.Linear(WIDTH, 4)
        with torch.no_grad():
            for part in self.parts:
                part.layer.weight.mul_(part.block.spread)
                part.norm.weight.normal_()
                part.norm.bias.normal_()
            self._settle()

    def _settle(self):
        """Give every norm the statistics of what it is given, and a mean as far away as drawn."""
        for part in self.parts:
            seen = []
            watch = lambda m, given, seen=seen: seen.append(given[0])  # noqa: E731
            with part.norm.register_forward_pre_hook(watch):
                self.eval()(inputs(self.spatial, 64, seed=5))
            if seen:
                axes = [0, *range(2, seen[-1].ndim)]
                part.norm.running_mean.copy_(seen[-1].mean(axes))
                part.norm.running_var.copy_(seen[-1].var(axes))
            if part.layer.bias is not None and part.block.centre:
                shift = part.block.centre * part.norm.running_var.sqrt()
                part.layer.bias += shift
                part.norm.running_mean += shift

    def forward(self, x):
        for position, part in enumerate(self.parts):
            y = part(x)
            x = x + y if self.branch and position % 2 else torch.relu(y)
        return self.head(x.mean((2, 3)) if self.spatial else x)


def inputs(spatial, n, seed):
    shape = (n, WIDTH, 3, 3) if spatial else (n, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


blocks = st.builds(
    Block,
    use=st.sampled_from(USES),
    kind=st.sampled_from(["plain", "plain", "plain", "subclass"]),
    bias=st.booleans(),
    eps=st.sampled_from([1e-5, 1e-3, 0.1, 2.0]),
    centre=st.sampled_from([0.0, 0.0, 1.0, 30.0, 1000.0]),
    spread=st.sampled_from([1.0, 1.0, 1e-3, 1e3]),
    gain=st.sampled_from([1.0, 1.0, 0.1, 10.0]),
    buffer=st.sampled_from(BUFFERS),
)
drawings = st.builds(
    Drawing,
    seed=st.integers(0, 99),
    spatial=st.booleans(),
    blocks=st.lists(blocks, min_size=1, max_size=3).map(tuple),
    branch=st.booleans(),
).filter(
    # A single item of no extent has no statistics of its own.
    lambda drawing: drawing.spatial or all(b.use is not batch_statistics for b in drawing.blocks)
)
