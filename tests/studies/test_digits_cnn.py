from importlib import resources

import pytest
import torch
from safetensors.torch import load_file

from moeash.data.sources import load_source
from moeash.data.splits import draw_splits
from moeash.networks.loading.builtin import SHIPPED
from moeash.networks.loading.sources import load_network
from studies import digits_cnn as digits


@pytest.fixture(scope="module")
def splits():
    return draw_splits(load_source("digits"), digits.SPLITS)


def test_the_shipped_network_classifies_digits_it_has_not_seen(splits):
    network = load_network("digits-cnn")
    assert digits.accuracy(network, splits["search"]) > 0.97
    assert digits.accuracy(network, splits["holdout"]) > 0.97
    assert digits.accuracy(network, splits["train"]) > 0.99


def test_training_needs_the_train_split_only_and_repeats_itself(splits):
    first, second = (digits.train(splits["train"], n_epochs=2) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert not first.training


def test_shifting_moves_by_at_most_one_pixel_and_keeps_values():
    image = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(200, 1, 1, 1)
    moved = digits._shifted(image)
    offsets = set((moved[:, 0, 4, 4] - 36).int().tolist())
    assert offsets == {a * 8 + b for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert moved.shape == image.shape


@pytest.mark.slow
def test_the_script_writes_a_checkpoint_as_good_as_the_shipped_one(splits, tmp_path, capsys):
    target = tmp_path / "a.safetensors"
    threads = torch.get_num_threads()
    try:
        assert digits.main(["--to", str(target)]) == 0
    finally:
        torch.set_num_threads(threads)
    assert target.stat().st_size < 400_000
    assert "holdout: 0.9" in capsys.readouterr().out
    written = load_network("digits-cnn", checkpoint=target)
    assert digits.accuracy(written, splits["holdout"]) > 0.97
    assert set(load_file(target)) == set(load_network("digits-cnn").state_dict())


def test_the_shipped_checkpoint_is_small_enough_to_ship():
    file = resources.files("moeash.networks") / "trained" / SHIPPED["digits-cnn"]
    with resources.as_file(file) as path:
        assert path.stat().st_size < 400_000
