"""The real checkpoints, through the layers a study uses, give the accuracies they are known for."""

import pytest

from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.networks.loading.sources import load_network
from studies.digits_cnn import accuracy

pytestmark = [pytest.mark.realdata, pytest.mark.slow(seconds=10)]

MNIST = {
    "search": {"part": "train", "range": [55_000, 60_000]},
    "holdout": {"part": "test", "rest": True},
}
CIFAR = {"holdout": {"part": "test", "rest": True}}


@pytest.mark.parametrize(
    "name, search, holdout", [("lenet300", 49_28, 98_38), ("lenet5", 49_64, 99_34)]
)
def test_lenets_reach_their_known_accuracy_on_mnist(real_data, name, search, holdout):
    splits = draw_splits(load_source("mnist", root=real_data / "mnist"), MNIST)
    network = load_network(name, checkpoint=real_data / f"models/{name}.safetensors")
    right = {key: accuracy(network, split) * len(split) for key, split in splits.items()}
    # One image of slack: another BLAS may round a tie the other way.
    assert right["search"] == pytest.approx(search, abs=1)
    assert right["holdout"] == pytest.approx(holdout, abs=1)


def test_resnet20_reaches_its_known_accuracy_on_cifar10_jpeg(real_data):
    root = real_data / "cifar10-jpeg"
    source = load_source("imagefolder", root=root, options={"preset": "cifar"})
    split = draw_splits(source, CIFAR)["holdout"]
    network = load_network(
        "resnet20", checkpoint=real_data / "models/resnet20-cifar10-jpeg.safetensors"
    )
    # JPEG decoders differ in the last bit, hence two images of slack.
    assert accuracy(network, split) * len(split) == pytest.approx(88_54, abs=2)
