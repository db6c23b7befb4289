import subprocess
import sys

HEAVY = ("torch", "torchvision", "pymoo", "ray", "matplotlib", "pandas", "sklearn", "alembic")
MODULES = (
    "auth",
    "contents",
    "metrics",
    "problems",
    "protection.connections",
    "protection.logs",
    "roots",
    "routes.files",
    "routes.metrics",
    "routes.session",
    "routes.tokens",
    "uploads",
)


def test_the_door_of_the_service_loads_nothing_heavy():
    code = "import sys\n" + "".join(f"import moeash.service.{name}\n" for name in MODULES)
    code += f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
