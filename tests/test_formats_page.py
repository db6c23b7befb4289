"""What .github/FORMATS.md shows is done here, in its order."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import moeash as package
from moeash.exports.formats.names import SUFFIXES
from moeash.networks.loading.sources import load_network

PAGE = Path(__file__).parents[1] / ".github" / "FORMATS.md"
TEXT = PAGE.read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)


def test_every_format_is_on_the_page_with_its_suffix():
    for name, suffixes in SUFFIXES.items():
        assert f"| `{name}` | `{suffixes[0]}` |" in TEXT


def test_every_file_the_page_points_to_exists():
    pointed = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", TEXT)
    assert pointed and all((PAGE.parent / path).exists() for path in pointed)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_every_command_and_program_of_the_page_runs(moeash, tiny, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="pip install 'moeash[onnx]'")
    shutil.copy(tiny.spec, tmp_path / "digits.toml")
    images = np.zeros((3, 1, 8, 8), np.float32)
    names = {"network": load_network("digits-cnn").eval(), "images": images}
    for language, text in BLOCKS:
        if language == "c":
            (tmp_path / "main.c").write_text(text)
        elif language == "python":
            exec(compile(text, PAGE.name, "exec"), names)
        else:
            for line in text.splitlines():
                command, *arguments = shlex.split(line)
                if command == "moeash":
                    stored = ["--storage", tiny.storage] if arguments[0] == "export" else []
                    words = ["tiny" if word == "digits" else word for word in arguments]
                    answer = moeash(*words, *stored)
                    assert answer.code == 0, answer.err
                else:
                    subprocess.run([command, *arguments], cwd=tmp_path, check=True)
    decoded = package.read(tmp_path / "digits.moeash")
    printed = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    first = float(decoded["fc2.weight"].flat[0])
    assert printed == f"digits has {len(decoded)} tensors, fc2.weight begins with {first:g}\n"
    for name, tensor in names["network"].state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), decoded[name])
    assert names["scores"].shape == (3, 10)
