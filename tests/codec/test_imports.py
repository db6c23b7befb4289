import subprocess
import sys
from pathlib import Path

READ = """
import sys
from moeash.codec import container
container.read(sys.argv[1])
heavy = {"torch", "pandas", "scipy", "bitarray", "matplotlib", "pymoo", "constriction"}
print(sorted(heavy & set(sys.modules)))
"""


EVERY = """
import importlib, pkgutil, sys
import moeash.codec
for module in pkgutil.walk_packages(moeash.codec.__path__, "moeash.codec."):
    importlib.import_module(module.name)
    assert "torch" not in sys.modules, module.name
print(sorted({"torch", "pandas", "scipy", "matplotlib", "pymoo", "sqlalchemy"} & set(sys.modules)))
"""


def imported_to_read(name):
    here = Path(__file__).parent
    command = [sys.executable, "-c", READ, str(here / "assets" / "v1" / name)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=here.parents[1], check=True)
    return done.stdout.strip()


def test_reading_needs_numpy_only():
    assert imported_to_read("plain-ans.moeash") == "[]"


def test_bitarray_is_imported_for_huffman_only():
    assert imported_to_read("plain-huffman.moeash") == "['bitarray']"


def test_no_module_of_the_codec_needs_torch():
    command = [sys.executable, "-c", EVERY]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"
