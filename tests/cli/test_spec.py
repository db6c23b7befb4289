import json
import subprocess
import sys

from moeash.study.spec.reference import describe_spec, spec_keys
from moeash.study.spec.schema import json_schema


def test_spec_prints_every_key_with_its_meaning(moeash):
    out = moeash("spec").out
    assert out == describe_spec()
    for place in ("name", "budget.no_gain", "method.k", "merge.trials", "output.folder"):
        assert f"| `{place}` |" in out
    assert all(key.description for key in spec_keys())


def test_spec_as_json_is_the_schema(moeash):
    assert moeash("spec", "--json").json == json_schema()


def test_spec_as_json_loads_no_torch():
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: sys.stderr.write(str('torch' in sys.modules)))\n"
        "sys.argv = ['moeash', 'spec', '--json']\n"
        "from moeash.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["$schema"].endswith("2020-12/schema")
    assert done.stderr == "False"
