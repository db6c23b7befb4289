import subprocess
import sys

import pytest

from moeash.backends.options import BackendOptions
from moeash.errors import InputError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "slurm"}, """backend.kind is 'slurm', needed "inprocess" or "ray\""""),
        ({"workers": 2, "timeout_s": 5.0}, "workers, backend.timeout_s need backend.kind = 'ray'"),
        ({"kind": "ray", "workers": 0}, r"workers is 0, needed an integer of at least 1 or \["),
        ({"kind": "ray", "workers": (0, 0)}, r"workers is \(0, 0\), needed .* at least 1"),
        ({"kind": "ray", "workers": (-1, 4)}, r"workers is \(-1, 4\), needed .* at least 0"),
        ({"kind": "ray", "workers": (5, 4)}, r"workers is \[5, 4\], needed .* with low <= high"),
        ({"kind": "ray", "workers": (1, 2, 3)}, r"workers is \(1, 2, 3\), needed an integer"),
        ({"kind": "ray", "workers": 1.5}, "workers is 1.5, needed an integer"),
        ({"kind": "ray", "gpus_per_worker": 1.5}, "gpus_per_worker is 1.5, needed a whole number"),
        ({"kind": "ray", "gpus_per_worker": -1.0}, "gpus_per_worker is -1.0, needed a number of"),
        ({"kind": "ray", "cpus_per_worker": 0.0}, "cpus_per_worker is 0.0, needed a number above"),
        ({"kind": "ray", "timeout_s": float("nan")}, "timeout_s is nan, needed a number above 0"),
        ({"kind": "ray", "max_tries": 0}, "max_tries is 0, needed an integer of at least 1"),
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
