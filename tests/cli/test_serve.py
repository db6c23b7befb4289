import subprocess
import sys

import pytest

from tests.marks import slow
from tests.servers import started

WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None  # as if it were not installed
sys.argv = ["moeash", "serve", "--port", "0"]
from moeash.cli.main import main
main()
"""


@pytest.mark.parametrize("package", ["fastapi", slow("tomli_w")])
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


@pytest.mark.slow
@pytest.mark.parametrize(("host", "shows_login"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_login_is_shown_only_where_nobody_else_comes_in(moeash, tmp_path, host, shows_login):
    # What a service in a container prints is kept in logs, which others read.
    moeash("token", "create", "--role", "operator")
    served, found = started(tmp_path, "--port", "0", "--host", host)
    with served:
        served.terminate()
    assert found["url"].startswith(f"http://{host}:")
    assert (found["login"] is not None) == shows_login
