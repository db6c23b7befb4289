from pathlib import Path

import numpy as np
import pytest

from moeash.data.options import DataOptions
from moeash.data.splits import load_splits


@pytest.mark.parametrize("kind", [str, Path])
def test_the_root_may_be_a_path(tmp_path, kind):
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 3, 3), np.uint8), y=[0, 1])
    options = DataOptions("npz", kind(tmp_path / "a.npz"), splits={"search": {"rest": True}})
    assert options.root == str(tmp_path / "a.npz")
    assert len(load_splits(options)["search"]) == 2
