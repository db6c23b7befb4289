"""What a user may set, and what a search varies."""

import re
import subprocess
import sys

import pytest

from moeash.core.solutions.variables import Real
from moeash.errors import InputError
from moeash.methods.wfn.options import WfnOptions


def test_checking_options_loads_no_torch():
    code = (
        "import sys; from moeash.methods.wfn.options import WfnOptions; WfnOptions().space(); "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"delta": (0.9, 0.5)}, "method.delta is [0.9, 0.5], needed [low, high] with 0"),
        ({"delta": (0.0, 1.0)}, "method.delta"),
        ({"zero_below": 0.0}, "method.zero_below is 0.0, needed a number above 0"),
        ({"fractions": ()}, "needed ascending shares that end with 1"),
        ({"fractions": (0.5, 0.5, 1.0)}, "needed ascending shares that end with 1"),
        ({"fractions": (0.5, 0.9)}, "needed ascending shares that end with 1"),
        ({"fractions": (0.0, 1.0)}, "method.fractions"),
        ({"epochs": 0}, "method.epochs is 0, needed an integer of at least 1"),
    ],
)
def test_options_out_of_range_are_refused(wrong, message):
    with pytest.raises(InputError, match=re.escape(message)):
        WfnOptions(**wrong)


def test_the_pull_is_searched_where_its_bounds_differ():
    delta = Real("delta", 0.01, 0.05, log=True)
    assert WfnOptions().space() == (delta,)
    assert WfnOptions(regularisation=(0.0, 0.8)).space() == (
        delta,
        Real("regularisation", 0.0, 0.8),
    )
    with pytest.raises(InputError, match=r"method.regularisation is \[0.8, 0.4\]"):
        WfnOptions(regularisation=(0.8, 0.4))
