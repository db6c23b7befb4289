import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
sys.argv = ["moeash", "serve", "--port", "0"]
from moeash.cli.main import main
main()
"""


@pytest.mark.parametrize("package", ["fastapi", "tomli_w"])
def test_without_its_packages_serve_says_what_to_install(tmp_path, package):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert package in line and "pip install 'moeash[service]'" in line
