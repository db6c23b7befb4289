import sys

import numpy as np
import pytest
import torch

from moeash.data.sources import SOURCES, Source, load_source
from moeash.errors import DataError


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "users_data.py").write_text(
        "import numpy as np\n"
        "def arrays(*, n=3, root=None):\n"
        "    return {'all': (np.full((n, 1, 2, 2), 9.0), np.arange(n))}\n"
        "def nothing():\n"
        "    return 3\n"
        "def bad():\n"
        "    return {'all': (np.zeros((2, 2, 2)), [0, -1])}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("users_data", None)


def test_a_user_s_arrays_are_taken_as_they_are(user_module):
    source = load_source("users_data:arrays", options={"n": 2}, root="ignored")
    assert isinstance(source, Source)
    assert source.images("all", np.array([1])).flatten().tolist() == [9.0] * 4
    assert source.n_classes == 2


def test_options_reach_the_source(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.full((1, 2, 2), 255, np.uint8), y=[0])
    source = load_source("npz", root=tmp_path / "a.npz", options={"mean": 0.5, "std": [0.25]})
    torch.testing.assert_close(source.images("all", np.array([0])), torch.full((1, 1, 2, 2), 2.0))


@pytest.mark.parametrize("name", SOURCES)
def test_unknown_options_are_refused_by_every_source(name):
    with pytest.raises(DataError, match=f"'{name}' has no option 'meen'; nearest: 'mean'"):
        load_source(name, options={"meen": 1})


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"digits"}))
def test_every_source_with_files_asks_for_its_root(name):
    options = {"preset": "none"} if name == "imagefolder" else {}
    with pytest.raises(DataError, match="needs root"):
        load_source(name, options=options)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("minst", {}, "no data source is called 'minst'; nearest: 'mnist'"),
        ("digits", {"root": "x"}, "take no root"),
        ("npz", {"options": {"root": "x"}}, "beside the options"),
        ("npz", {"root": 3}, "refuses its options"),
        ("users_data:array", {}, "nearest: 'arrays'"),
        ("users_data:arrays", {"options": {"m": 1}}, r"users_data:arrays\(m=1\) raised TypeError"),
        ("users_data:nothing", {}, "returned int, needed a Source .* lacks parts, n_classes"),
        ("users_data:bad", {}, "labels out of range, the first is -1"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(user_module, name, arguments, message):
    with pytest.raises(DataError, match=message):
        load_source(name, **arguments)
