"""Questions asked in a process of little memory, which have to be refused in words."""

import subprocess
import sys
from pathlib import Path

PROBE = """
import resource, sys
from moeash.errors import {error}
{imports}
resource.setrlimit(resource.RLIMIT_AS, ({n_bytes}, {n_bytes}))
try:
    {question}
except {error} as refused:
    print("refused:", refused)
"""


def refusal(path: Path, imports: str, question: str, error: str, *, gib: int) -> str:
    """Return what is said of a file; the question finds its path in ``sys.argv[1]``."""
    code = PROBE.format(error=error, imports=imports, question=question, n_bytes=gib << 30)
    command = [sys.executable, "-c", code, str(path)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
