"""The collector stands still for imports, and no longer."""

import gc
import subprocess
import sys

import pytest

from moeash.runtime.collecting import uncollected


def test_it_goes_on_afterwards_whatever_happened_and_only_if_it_had_been_on():
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled(), "whoever paused it first goes on"
        raise ImportError
    assert gc.isenabled()


@pytest.mark.slow
def test_the_python_interface_is_imported_without_it():
    """Torch and what a study takes: hundreds of rounds otherwise, of which those before are few."""
    code = "import gc, moeash.runtime.collecting as c; n = gc.get_stats()[0]['collections']\n"
    code += "import moeash; moeash.search; assert gc.isenabled()\n"
    code += "print(gc.get_stats()[0]['collections'] - n)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20
