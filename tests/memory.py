"""What takes how much memory, or is refused for want of it, asked in processes of their own."""

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


def output_of(code: str, *arguments: object) -> str:
    """Return what a process prints that runs this code; it may import from ``tests``."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def most_bytes() -> int:
    """Return the most memory this process has had.

    Not ru_maxrss, which a process inherits from the one that started it.
    """
    with Path("/proc/self/status").open() as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def refusal(path: Path, imports: str, question: str, error: str, *, gib: int) -> str:
    """Return what is said of a file; the question finds its path in ``sys.argv[1]``."""
    code = PROBE.format(error=error, imports=imports, question=question, n_bytes=gib << 30)
    return output_of(code, path)
