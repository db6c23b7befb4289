"""What error feedback costs on networks of millions of weights: time and memory."""

import textwrap

import pytest

from tests.memory import output_of

pytestmark = [pytest.mark.benchmark, pytest.mark.slow]

GIB = 1 << 30

RUN = textwrap.dedent("""
    import resource, sys, time
    import torch
    from torchvision import models
    from moeash.methods.feedback.compressing import compress
    from moeash.methods.feedback.preparing import prepare

    name, n_images, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = getattr(models, name)(weights=None).eval()
    images = torch.randn(n_images, 3, size, size)
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    with torch.no_grad():
        network(images[:2])
        start = time.process_time()
        network(images)
        forward = time.process_time() - start
    before = peak()
    start = time.process_time()
    prepared = prepare(network, [images])
    preparing = time.process_time() - start
    factors = sum(f.coupling.nbytes for f in prepared.factors)
    after = peak()
    start = time.process_time()
    compress(prepared, 33, 0.05)
    compressing = time.process_time() - start
    print(forward, preparing, compressing, before, after, factors, prepared.n_calibrated)
""")


@pytest.mark.parametrize(("name", "n_images", "size"), [("resnet18", 8, 224)])
def test_time_and_memory_of_a_large_network(name, n_images, size):
    out = output_of(RUN, name, n_images, size).split()
    forward, preparing, compressing = map(float, out[:3])
    before, after, factors, n_weights = map(int, out[3:])
    print(
        f"\n{name}: {n_weights:,} weights, {n_images} images of {size}x{size}; CPU seconds: "
        f"forward {forward:.2f}, prepare {preparing:.1f} ({preparing / forward:.0f}x), compress "
        f"{compressing:.1f} ({compressing / forward:.1f}x); factors {factors / GIB:.2f} GiB "
        f"({factors / n_weights:.1f} bytes a weight), peak {before / GIB:.2f} -> "
        f"{after / GIB:.2f} GiB"
    )
    assert n_weights > 11_000_000
    assert after - before < 3 * GIB


PASSES = textwrap.dedent("""
    import statistics, sys, time
    import torch
    from torchvision import models
    from moeash.methods.feedback.curvature.measuring import measure_curvature
    from moeash.networks.loading.builtin import BUILTIN

    name, n_images, size, channels = sys.argv[1], *map(int, sys.argv[2:])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = (BUILTIN.get(name) or getattr(models, name))().eval()
    images = torch.randn(n_images, channels, size, size)
    weights = [p for p in network.parameters() if p.ndim > 1]
    def bare():
        scores = network(images)
        for _ in range(4):
            towards = (scores * torch.randn_like(scores)).sum()
            torch.autograd.grad(towards, weights, retain_graph=True)
    def taken(work):
        start = time.process_time()
        work()
        return time.process_time() - start
    bare()
    pairs = [(taken(bare), taken(lambda: measure_curvature(network, [images]))) for _ in range(3)]
    print(statistics.median(b for b, _ in pairs), *sorted(c / b for b, c in pairs))
""")


@pytest.mark.parametrize(
    ("name", "n_images", "size", "channels"),
    [
        ("resnet20", 50, 32, 3),
        ("mobilenet_v2", 4, 224, 3),
        ("resnet18", 4, 224, 3),
        ("lenet300", 1000, 28, 1),
    ],
)
def test_curvature_takes_little_more_than_the_passes_it_needs(name, n_images, size, channels):
    out = output_of(PASSES, name, n_images, size, channels)
    bare, low, middle, high = map(float, out.split())
    print(
        f"\n{name}: a forward pass and 4 backward passes of {n_images} images {bare:.2f} s of one "
        f"core, curvature {middle:.2f} times that ({low:.2f}-{high:.2f})"
    )
    assert middle > 0.5  # it cannot do without them


STATES = textwrap.dedent("""
    import statistics, sys, time
    import torch
    from moeash.methods.feedback.assignment.columns import prepare_feedback, zero_aligned_entries
    from moeash.methods.feedback.assignment.paths import assign_freely, assign_trellis
    from tests.methods.feedback.assignment.row_curvature import between_rows, coupled_by
    from tests.methods.feedback.assignment.test_columns import problem

    rows, columns = map(int, sys.argv[2:])
    torch.set_num_threads(1)
    factor = prepare_feedback(problem(0, rows=rows, columns=columns, correlation=1.0))
    if sys.argv[1] == "coupled":
        factor = coupled_by(factor, between_rows(1, rows), natural_order=True)
    coarse, fine = (zero_aligned_entries(-4.0, 4.0, k) for k in (32, 51))
    zero = int(fine.abs().argmin())
    def taken(work):
        start = time.process_time()
        work()
        return (time.process_time() - start) / factor.weight.numel() * 1e9
    pairs = [
        (
            taken(lambda: assign_freely(factor, coarse, price=0.01)),
            taken(lambda: assign_trellis(factor, fine, zero, 8, price=0.01)),
        )
        for _ in range(5)
    ]
    print(statistics.median(free for free, _ in pairs), *sorted(t / free for free, t in pairs)[1:4])
""")


@pytest.mark.parametrize(
    ("rows", "size"), [("coupled", (1152, 192)), ("coupled", (192, 1152)), ("free", (1280, 320))]
)
def test_a_trellis_of_8_states_takes_little_more_than_twice_the_time_of_none(rows, size):
    """Every state keeps targets of its own: of all later rows that would be eight times as many."""
    out = output_of(STATES, rows, *size)
    free, low, middle, high = map(float, out.split())
    print(
        f"\n{rows} rows, {size[0]} x {size[1]}: {free:.0f} ns a weight without a trellis, on one "
        f"of 8 states {middle:.1f} times that ({low:.1f}-{high:.1f})"
    )
    assert middle < 4
