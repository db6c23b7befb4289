"""The base method: nearest bins of one global codebook."""

import re

import pytest

from moeash.core.solutions.candidate import Candidate
from moeash.errors import InputError
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from tests.contracts.method import MethodContract, digits_network, prepare


class TestUniform(MethodContract):
    @pytest.fixture(
        scope="class",
        params=[
            UniformOptions(k=(2, 40)),
            UniformOptions(k=(3, 41), zero_aligned=True),
            UniformOptions(k=(2, 40), centre="midpoint", clip=(-0.3, 0.4)),
        ],
        ids=["mean", "zero aligned", "clipped midpoints"],
    )
    @classmethod
    def options(cls, request):
        return request.param


def test_shifted_to_zero_eight_bins_can_be_nine_and_are_counted():
    network, method = digits_network(), Uniform(UniformOptions(k=(8, 8), zero_aligned=True))
    prepared = prepare(method, network, {})
    shared = method.compress(prepared, Candidate.of({"k": 8}), network=network)
    assert shared.n_entries == method.most_entries(prepared) == 9


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": (5, 4)}, "method.k is [5, 4], needed [low, high] with 1 <= low <= high"),
        ({"k": (0, 4)}, "method.k[0] is 0, needed an integer of at least 1"),
        ({"clip": (1.0, 1.0)}, "method.clip is [1.0, 1.0], needed [low, high] with low < high"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        UniformOptions(**wrong)
