import json
import pickle
import subprocess
import sys

import pytest

from moeash.errors import InputError
from moeash.study.spec.reading import spec_of_module
from moeash.study.spec.spec import StudySpec
from tests.digits import digits_spec

SPECS = {
    "small": digits_spec(),
    "everything": digits_spec(
        seed=2**32 - 1,
        network={"include": ["*"], "exclude": [], "options": {"a": [1, (2.5, "x")], "b": {"c": 0}}},
        data={"options": {"mean": [0.5, 1]}},
        evaluation={"max_drop": 1, "threads": None},
        method={"name": "feedback", "k": [3, 4], "damping": 1, "trellis": 8},
        search={"objectives": ["entries", "size_bytes"]},
        budget={"generations": None, "wall_time_s": 3},
        refine={"solutions": 0},
        merge={"trials": 0, "max_drop": 0},
        codec={"coder": "adaptive", "kept": "auto", "norms": "folded"},
        backend={"kind": "ray", "workers": [0, 64], "gpus_per_worker": 1},
        output={"folder": "x", "max_bytes": 5},
    ),
    "python": spec_of_module({"name": "m"}, module="N", metric="f", calibration="ab"),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("defaults", [False, True])
def test_a_spec_comes_back_from_json_as_it_was(spec, defaults):
    text = json.dumps(spec.to_dict(defaults=defaults), allow_nan=False)
    again = StudySpec.from_dict(json.loads(text))
    assert again == spec and again.fingerprint() == spec.fingerprint()
    assert json.dumps(again.to_dict(defaults=defaults)) == text
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_what_is_stored_is_what_differs_from_the_defaults():
    spec = StudySpec.from_dict(
        {
            "name": "a",
            "network": {"source": "lenet5", "share_all": False},
            "data": {"source": "mnist", "splits": {}},
            "codec": {"coder": "ans", "kept": "float32"},
            "search": {},
            "method": {"name": "uniform"},
        }
    )
    assert spec.to_dict() == {
        "version": 1,
        "name": "a",
        "network": {"source": "lenet5"},
        "data": {"source": "mnist", "splits": {}},
        "codec": {"kept": "float32"},
    }


def test_a_study_without_a_rule_ends_after_15_generations():
    assert digits_spec(budget=None).budget.generations == 15
    assert digits_spec(budget={"generations": None, "no_gain": 2}).budget.generations is None


@pytest.mark.parametrize(
    ("workers", "fewest", "most"), [(None, None, None), (4, 4, 4), ([0, 64], 0, 64)]
)
def test_workers_are_a_number_or_a_range(workers, fewest, most):
    backend = digits_spec(backend={"kind": "ray", "workers": workers}).backend
    assert (backend.fewest_workers, backend.most_workers) == (fewest, most)


def test_a_task_holds_the_specs_own_options():
    spec = digits_spec(codec={"coder": "huffman"})
    task = spec.task()
    assert task.network is spec.network and task.data is spec.data
    assert task.evaluation is spec.evaluation and task.codec is spec.codec
    assert (task.seed, task.objectives, task.n_threads) == (0, ("size_bytes",), 1)
    assert task.notes == {"network": "digits-cnn"}


def test_a_task_of_a_module_given_in_python_needs_the_module():
    with pytest.raises(InputError, match="its module is not stored"):
        SPECS["python"].task()


LIGHT = """
import sys
{code}
heavy = {{"torch", "pymoo", "ray", "sqlalchemy", "pandas", "torchvision", "PIL"}}
loaded = set(sys.modules) & heavy
assert not loaded, loaded
"""


@pytest.mark.parametrize(
    "code",
    [
        "import moeash.networks.options",
        "import moeash.data.options",
        "import moeash.evaluation.options",
        "import moeash.methods.options",
        "import moeash.searches.options",
        "import moeash.compression.options",
        "import moeash.study.course.options",
        "import moeash.backends.options",
        "import moeash.study.spec.output",
        "from moeash.study.spec.reading import load_spec; load_spec('studies/digits.toml')",
        "from moeash.study.spec.schema import json_schema; json_schema()",
        "from moeash.study.spec.reference import describe_spec; describe_spec()",
    ],
)
def test_options_and_specs_are_read_without_anything_heavy(code, pytestconfig):
    command = [sys.executable, "-c", LIGHT.format(code=code)]
    subprocess.run(command, check=True, cwd=pytestconfig.rootpath)


@pytest.mark.parametrize(
    ("name", "fits"), [("x" * 200, True), ("é" * 100, True), ("é" * 101, False)]
)
def test_a_name_that_no_file_can_have_is_refused_before_the_search(tmp_path, name, fits):
    plain = digits_spec().to_dict() | {"name": name}
    if fits:
        assert StudySpec.from_dict(plain).name == name
        (tmp_path / f"{name}.moeash").touch()
    else:
        with pytest.raises(InputError, match="takes 202 bytes, and files are named after it"):
            StudySpec.from_dict(plain)
