"""What a user may set, and what a search varies."""

import re
import subprocess
import sys

import pytest

from moeash.core.solutions.variables import Real
from moeash.errors import InputError
from moeash.methods.pwfn.options import PwfnOptions


def test_checking_options_loads_no_torch():
    code = (
        "import sys; from moeash.methods.pwfn.options import PwfnOptions; PwfnOptions().space(); "
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
        PwfnOptions(**wrong)


def test_delta_is_searched_and_the_threshold_rounded_down_to_a_power():
    assert PwfnOptions().space() == (Real("delta", 0.5, 4.0, log=True),)
    exponents = [PwfnOptions(zero_below=z).least_exponent for z in (2**-7, 0.01, 0.0078, 1.0)]
    assert exponents == [-7, -7, -8, 0]
