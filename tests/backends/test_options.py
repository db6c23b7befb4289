import subprocess
import sys

import pytest

from moeash.backends.options import BackendOptions
from moeash.errors import InputError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "slurm"}, "kind = 'slurm' is neither 'inprocess' nor 'ray'"),
        ({"workers": 2, "timeout_s": 5.0}, "timeout_s, workers need kind = 'ray'"),
        ({"kind": "ray", "workers": 0}, "leave room for at least one"),
        ({"kind": "ray", "workers": (0, 0)}, "leave room for at least one"),
        ({"kind": "ray", "workers": (-1, 4)}, "leave room for at least one"),
        ({"kind": "ray", "workers": (5, 4)}, r"\[5, 4\]: the fewest, 5, is above the most, 4"),
        ({"kind": "ray", "workers": (1, 2, 3)}, r"must be a number or \[fewest, most\]"),
        ({"kind": "ray", "workers": 1.5}, r"must be a number or \[fewest, most\]"),
        ({"kind": "ray", "gpus_per_worker": 1.5}, "gpus_per_worker = 1.5 above 1 must be whole"),
        ({"kind": "ray", "gpus_per_worker": -1.0}, "must not be negative"),
        ({"kind": "ray", "cpus_per_worker": 0.0}, "cpus_per_worker = 0.0 must be above 0"),
        ({"kind": "ray", "timeout_s": float("nan")}, "timeout_s = nan must be above 0"),
        ({"kind": "ray", "max_tries": 0}, "max_tries = 0 must be 1 or more"),
    ],
)
def test_what_means_nothing_is_refused_with_the_reason(values, message):
    with pytest.raises(InputError, match=message):
        BackendOptions(**values)


def test_a_range_may_come_as_a_list_and_still_compares_and_hashes():
    given, same = (BackendOptions("ray", workers=pair) for pair in ([0, 64], (0, 64)))
    assert given == same and hash(given) == hash(same)


def test_options_need_neither_torch_nor_ray():
    script = (
        "import sys, moeash.backends.options; "
        "assert not {'torch', 'ray', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
