"""What methods have in common; the contract of each is in its own folder."""

import numpy as np
import pytest
import torch

from moeash.methods.feedback.options import FeedbackOptions
from moeash.methods.gpfq.options import GpfqOptions
from moeash.methods.options import OPTIONS
from moeash.methods.registry import METHODS, build_method
from tests.contracts.method import digits_network, prepare


def test_every_options_class_has_a_method():
    assert set(METHODS) == set(OPTIONS.values())
    assert [build_method(options()).name for options in OPTIONS.values()] == list(OPTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("options", [FeedbackOptions(images=45), GpfqOptions(images=45)])
def test_fewer_images_than_the_split_holds_are_drawn_from_all_classes(options):
    class Sorted:
        """A split of 900 images sorted by class that remembers who was asked for."""

        def __len__(self):
            return 900

        def batches(self, batch_size, order=None):
            self.classes = set(order // 100)
            yield torch.rand(len(order), 1, 8, 8), torch.from_numpy(order // 100)

    split = Sorted()
    prepare(build_method(options), digits_network(), {"calibration": split})
    assert split.classes == set(np.arange(9))
