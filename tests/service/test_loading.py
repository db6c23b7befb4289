import subprocess
import sys

import pytest

HEAVY = ("torch", "torchvision", "pymoo", "ray", "matplotlib", "pandas", "sklearn", "alembic")


@pytest.mark.slow
def test_the_service_loads_nothing_heavy():
    code = "import sys\nimport moeash.service.serving\n"
    code += f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == ([], "")
