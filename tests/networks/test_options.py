from pathlib import Path

import pytest

from moeash.networks.options import NetworkOptions


def test_one_pattern_is_a_list_of_one():
    options = NetworkOptions("lenet5", include="0.weight", exclude="*.bias")
    assert options == NetworkOptions("lenet5", include=("0.weight",), exclude=("*.bias",))


@pytest.mark.parametrize("kind", [str, Path])
def test_a_checkpoint_may_be_a_path(kind):
    assert NetworkOptions("lenet5", checkpoint=kind("a/b.pt")).checkpoint == "a/b.pt"
