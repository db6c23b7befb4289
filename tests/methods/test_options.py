"""Options are checked without torch and say what their fields mean."""

import dataclasses
import inspect
import subprocess
import sys

import pytest

from moeash.methods.options import OPTIONS


def test_checking_options_loads_no_torch():
    code = (
        "import sys; from moeash.methods.options import OPTIONS; "
        "[options().space() for options in OPTIONS.values()]; "
        "print([name for name in ('torch', 'safetensors', 'pymoo') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented(name):
    text = inspect.getdoc(OPTIONS[name]) or ""
    documented = text.partition("Attributes:")[2]
    for field in dataclasses.fields(OPTIONS[name]):
        assert f"    {field.name}: " in documented


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_frozen_and_comparable(name):
    options = OPTIONS[name]()
    assert options == OPTIONS[name]() and hash(options) == hash(OPTIONS[name]())
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.k = (1, 2)
