"""What loading a file and running on indices cost on one core, as ratios measured in turns.

Times are of the CPU, which other processes hardly change. Asserts none.

Run with ``pytest tests/benchmarks/test_bench_loading.py -m benchmark -n 0 -s``.
"""

import copy
import statistics
import time

import pytest
import torch
from torch import nn

import moeash
from moeash.codec import container
from moeash.networks.loading.sources import load_network
from moeash.nn import compress_, memory

pytestmark = pytest.mark.benchmark

ROUNDS, FEWER = 7, 3
"""Fewer where a call takes a second."""


def medians(rounds=ROUNDS, **functions):
    """Median CPU seconds of each function, called in turns, so that all see the same machine."""
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.process_time()
            function()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


@pytest.fixture(autouse=True)
def one_thread():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def efficientnet():
    return load_network("torchvision:efficientnet_b0", weights="random").eval()


def lenet5():
    return load_network("lenet5", weights="random").eval()


def digits_cnn():
    """A trained one: random weights have nothing that the adaptive coder could take."""
    return load_network("digits-cnn").eval()


@pytest.mark.parametrize(
    ("make", "coder"),
    [
        (lenet5, "ans"),
        (efficientnet, "ans"),
        (efficientnet, "huffman"),
        (digits_cnn, "ans"),
        (digits_cnn, "adaptive"),
    ],
)
def test_loading_beside_safetensors(make, coder, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    module = make()
    moeash.compress(
        module,
        tmp_path / "x.moeash",
        candidate={"k": 64},
        spec={"codec": {"coder": coder}},
        progress=False,
    )
    save_file(module.state_dict(), tmp_path / "x.safetensors")
    taken = medians(
        moeash=lambda: moeash.load(tmp_path / "x.moeash", into=module),
        decode=lambda: container.read(tmp_path / "x.moeash"),
        safetensors=lambda: module.load_state_dict(load_file(tmp_path / "x.safetensors")),
    )
    sizes = [(tmp_path / f"x.{suffix}").stat().st_size for suffix in ("safetensors", "moeash")]
    with capsys.disabled():
        print(
            f"\n{make.__name__}, {coder}: load {taken['moeash'] * 1e3:.1f} ms, "
            f"{taken['decode'] / taken['moeash']:.0%} of it decoding indices; "
            f"{taken['moeash'] / taken['safetensors']:.1f} x safetensors, whose file is "
            f"{sizes[0] / sizes[1]:.0f} times as large"
        )


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(384, 12, 1536, batch_first=True, activation="gelu")
    return nn.Sequential(nn.Embedding(30_522, 384), nn.TransformerEncoder(layer, 6)).eval()


INPUTS = {
    "lenet5": (lenet5, lambda n: torch.randn(n, 1, 28, 28)),
    "resnet20": (
        lambda: load_network("resnet20", weights="random").eval(),
        lambda n: torch.randn(n, 3, 32, 32),
    ),
    "efficientnet_b0": (efficientnet, lambda n: torch.randn(n, 3, 224, 224)),
    "encoder of 6 layers": (encoder, lambda n: torch.randint(0, 30_522, (n, 64))),
}


@pytest.mark.parametrize(
    ("name", "k"),
    [("lenet5", 16), ("resnet20", 16), *((name, 64) for name in INPUTS)],
)
def test_running_on_indices_beside_dense_weights(name, k, tmp_path, capsys):
    make, draw = INPUTS[name]
    source = make()
    moeash.compress(source, tmp_path / "x.moeash", candidate={"k": k}, progress=False)
    dense = moeash.load(tmp_path / "x.moeash", into=source)
    networks = {"dense": dense}
    for bits in (None, 6):
        small = copy.deepcopy(dense)
        compress_(small, tmp_path / "x.moeash", bits=bits)
        networks["default" if bits is None else "six"] = small
    held = copy.deepcopy(dense)
    compress_(held, tmp_path / "x.moeash", resident_bytes=1 << 30)
    networks["held"] = held
    lines = []
    for batch in (1, 4):
        x = draw(batch)
        with torch.inference_mode():
            taken = medians(FEWER, **{n: (lambda m=m, x=x: m(x)) for n, m in networks.items()})
        ratios = ", ".join(
            f"{n} {taken[n] / taken['dense']:.2f} x" for n in networks if n != "dense"
        )
        lines.append(f"batch {batch}: dense {taken['dense'] * 1e3:.2f} ms, {ratios}")
    with capsys.disabled():
        rest, dense_rest = (memory(networks[n]).at_rest_bytes for n in ("default", "dense"))
        print(f"\n{name}, k = {k}: {rest:,} of {dense_rest:,} bytes at rest; " + "; ".join(lines))
