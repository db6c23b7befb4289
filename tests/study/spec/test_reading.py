import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import moeash
from moeash.errors import SpecError
from moeash.methods.uniform.options import UniformOptions
from moeash.networks.loading.checkpoints import load_checkpoint
from moeash.study.course.options import BudgetOptions
from moeash.study.spec.reading import apply_override, load_spec, parse_spec, spec_of_module
from tests.digits import BASE, merged

TOML = """
name = "digits"
[network]
source = "digits-cnn"
[data]
source = "digits"
[data.splits]
search = { part = "all", count = 200, seed = 0 }
"""


def refused(changes, message):
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(merged(BASE, changes), where="my.toml")
    assert str(caught.value).startswith("my.toml: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, "unknown key 'sede'; nearest: 'seed'"),
        ({"network": {"sorce": "x"}}, "unknown key 'network.sorce'; nearest: 'source'"),
        ({"data": {"split": {}}}, "unknown key 'data.split'; nearest: 'splits'"),
        ({"evaluation": {"batchsize": 1}}, "'evaluation.batchsize'; nearest: 'batch_size'"),
        ({"search": {"popul": 1}}, "unknown key 'search.popul'; nearest: 'population'"),
        ({"budget": {"generation": 1}}, "'budget.generation'; nearest: 'generations'"),
        ({"refine": {"solution": 1}}, "unknown key 'refine.solution'; nearest: 'solutions'"),
        ({"merge": {"maxdrop": 1}}, "unknown key 'merge.maxdrop'; nearest: 'max_drop'"),
        ({"codec": {"coders": "ans"}}, "unknown key 'codec.coders'; nearest: 'coder'"),
        ({"backend": {"kinds": 1}}, "unknown key 'backend.kinds'; nearest: 'kind'"),
        ({"output": {"folder": "x", "picks": 1}}, "'output.picks'; nearest: 'pick'"),
        ({"method": {"name": "unifrom"}}, "method: no method 'unifrom'; nearest: 'uniform'"),
        ({"method": {"centr": "mean"}}, "'method.centr' of method 'uniform'; nearest: 'centre'"),
        ({"method": {"name": "gpfq", "k": [1, 2]}}, "unknown key 'method.k' of method 'gpfq'"),
        ({"network": {"source": "resnet21"}}, "no network is called 'resnet21'; nearest: 'resnet"),
        ({"data": {"source": "cifar"}}, "no data source is called 'cifar'; nearest: 'cifar10'"),
        ({"evaluation": {"metric": "top2"}}, "evaluation.metric: no metric 'top2'; nearest: 'top1"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(changes, message):
    refused(changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "'name' is missing"),
        ({"network": None}, "'network' is missing"),
        ({"network": {"source": None}}, "'network.source' is missing"),
        ({"data": None}, "'data' is missing"),
        ({"name": "a/b"}, "name is 'a/b', needed text of 1 to 200 letters, digits"),
        ({"name": ".."}, r"name is '\.\.', needed text .* neither \. nor \.\."),
        ({"name": "."}, r"name is '\.', needed text .* neither \. nor \.\."),
        ({"name": "a\n"}, "name is 'a.n', needed text"),
        ({"name": "a" * 201}, "name is 'aaa.*aaa', needed text"),
        ({"seed": -1}, "seed is -1, needed an integer of at least 0"),
        ({"seed": "many"}, "seed is 'many', needed an integer"),
        ({"seed": True}, "seed is true, needed an integer"),
        ({"seed": 1.0}, "seed is 1.0, needed an integer"),
        ({"seed": 10**5000}, "seed is a number of thousands of digits, needed an integer"),
        ({"network": 3}, "network is 3, needed a table"),
        ({"search": {"population": 1}}, "search.population is 1, needed an integer of at least 2"),
        ({"search": {"objectives": []}}, "search.objectives .*at least one size"),
        ({"search": {"objectives": ["bytes"]}}, r"search.objectives\[0\] is 'bytes', needed .*"),
        ({"search": {"objectives": ["entries"] * 2}}, "search.objectives .* none twice"),
        ({"search": {"algorithm": "sga"}}, "search.algorithm is 'sga', needed \"nsga2\", "),
        ({"budget": {"wall_time_s": 0}}, "budget.wall_time_s is 0, needed a number above 0"),
        ({"budget": {"wall_time_s": float("inf")}}, "budget.wall_time_s is inf, needed a number"),
        ({"evaluation": {"max_drop": -0.1}}, "evaluation.max_drop .*number of at least 0"),
        ({"evaluation": {"max_drop": float("nan")}}, "evaluation.max_drop is nan, needed"),
        (
            {"codec": {"coder": "zip"}},
            'codec.coder is .zip., needed "ans", "huffman" or "adaptive"',
        ),
        ({"data": {"splits": [1]}}, r"data.splits is \[1\], needed a table of tables"),
        ({"data": {"splits": {"search": 1}}}, "data.splits.search is 1, needed a table"),
        ({"data": {"options": {"mean": [1, float("inf")]}}}, r"data.options.mean\[1\] is inf"),
        ({"network": {"options": {"n": 2**63}}}, "network.options.n is 9223372036854775808"),
        ({"network": {"weights": "a", "checkpoint": "b"}}, "network.checkpoint are both given"),
        ({"method": {"k": [5, 2]}}, r"method.k is \[5, 2\], .*1 <= low <= high"),
        ({"method": {"k": [2, 3.5]}}, r"method.k\[1\] is 3.5, needed an integer"),
        (
            {"method": {"k": 7}},
            r"method.k is 7, needed \[integer of at least 1 and at most 1,048,576, ",
        ),
        ({"method": {"clip": [1.0, 1.0]}}, "method.clip .*low < high"),
        ({"method": {"name": "feedback", "trellis": 5}}, "method.trellis is 5, needed 0, 4, 8 or"),
        ({"method": {"name": "feedback", "trellis": False}}, "method.trellis is false, needed 0"),
        (
            {"method": {"name": "feedback", "k": None, "trellis": 8}},
            "method 'feedback' with these options needs codec.coder = 'adaptive', not 'ans'",
        ),
        ({"backend": {"workers": 2}}, "backend.workers needs backend.kind = 'ray'"),
        ({"backend": {"kind": "ray", "workers": 0}}, "backend.workers is 0, needed an integer of"),
        ({"backend": {"kind": "ray", "workers": [4, 2]}}, r"backend.workers .*low <= high"),
        ({"backend": {"kind": "ray", "workers": [1, 2, 3]}}, r"backend.workers is \[1, 2, 3\]"),
        ({"backend": {"kind": "ray", "gpus_per_worker": 1.5}}, "gpus_per_worker is 1.5, needed a"),
        ({"calibration": "abc"}, "calibration is for modules given in Python"),
        ({"network": {"source": "python:Net"}, "data": None}, "'python:' is what moeash.search"),
    ],
)
def test_values_that_do_not_fit_are_refused_where_they_are(changes, message):
    refused(changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": {"stop": {"generations": 3}}}, r"'search.stop'; rules are in \[budget\]"),
        ({"merge": {"enabled": False}}, "'merge.enabled'; merge.trials = 0"),
        ({"norms": {"fold": True}}, "'norms'; codec.norms is 'folded'"),
        ({"backend": {"kind": "ray", "max_workers": 4}}, r"'backend.max_workers'; .*\[low, high\]"),
    ],
)
def test_a_key_that_is_called_otherwise_is_refused_with_what_it_is_called(changes, message):
    assert refused(changes, message).count("unknown key") == 1


def test_every_problem_is_told_at_once():
    message = refused({"seed": -1, "sede": 2, "codec": {"coder": "zip"}, "norms": 1}, "seed is -1")
    assert message.count("; ") >= 3
    assert all(part in message for part in ("codec.coder", "'sede'", "'norms'"))


def test_what_is_given_is_not_changed():
    given = {**BASE, "merge": {"enabled": False}}
    with pytest.raises(SpecError):
        parse_spec(given)
    assert given["merge"] == {"enabled": False}


def test_a_file_is_read_and_overridden(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(TOML)
    spec = load_spec(
        path, ["seed=7", "data.root=../some where", "budget.no_gain=3", "method.k=[2, 9]"]
    )
    assert (spec.seed, spec.data.root, spec.budget) == (
        7,
        "../some where",
        BudgetOptions(no_gain=3),
    )
    assert spec.method == UniformOptions(k=(2, 9))
    assert load_spec(path).budget == BudgetOptions(generations=15)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "'seed' is not KEY.PATH=VALUE"),
        ("=3", "is not KEY.PATH=VALUE"),
        ("name.x=3", "'name' is a value, not a table"),
        ("sede=3", "unknown key 'sede'; nearest: 'seed'"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(tmp_path, override, message):
    path = tmp_path / "a.toml"
    path.write_text(TOML)
    with pytest.raises(SpecError, match=message):
        load_spec(path, [override])


def test_the_value_of_an_override_is_toml_or_text():
    data = {}
    for override in ('a.b="x"', "a.c=x y", "d=true", "e=1.5", "f=a=b", "g="):
        apply_override(data, override)
    assert data == {"a": {"b": "x", "c": "x y"}, "d": True, "e": 1.5, "f": "a=b", "g": ""}


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(SpecError, match=r"cannot read .*: No such file"):
        load_spec(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(SpecError, match="not UTF-8"):
        load_spec(tmp_path / "bytes.toml")
    (tmp_path / "half.toml").write_text("name = ")
    with pytest.raises(SpecError, match="is not TOML: Invalid value"):
        load_spec(tmp_path / "half.toml")


HOSTILE = {
    "a key of 50,000 parts": ".".join("a" * 50_000) + " = 1",
    "a quoted key of 50,000 parts": ".".join(['"a"'] * 50_000) + " = 1",
    "a header of 50,000 parts": "[" + ".".join("a" * 50_000) + "]",
    "lists nested 30,000 deep": "a = " + "[" * 30_000 + "]" * 30_000,
    "tables nested 30,000 deep": "a = " + "{a=" * 30_000 + "1" + "}" * 30_000,
    "an integer of 100,000 digits": "seed = " + "9" * 100_000,
    "a hexadecimal integer of 100,000 digits": "seed = 0x" + "f" * 100_000,
    "an option of 100,000 digits": TOML + "[network.options]\na = 0x" + "f" * 100_000,
    "options nested 200 deep": TOML + "[network.options]\na = " + "[" * 200 + "]" * 200,
    "a file of a megabyte": "#" * 1_000_000,
    "a name of 100,000 letters": f'name = "{"a" * 100_000}"',
    "a key of 100,000 letters": "a" * 100_000 + " = 1",
    "10,000 unknown keys": "".join(f"key{i} = 1\n" for i in range(10_000)),
    "a date": TOML.replace('"digits"', "2020-01-01", 1),
    "a date among options": TOML + "[network.options]\na = 2020-01-01",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_files_are_refused_quickly_and_in_a_short_line(tmp_path, text):
    (tmp_path / "a.toml").write_text(text)
    started = time.process_time()
    with pytest.raises(SpecError) as refused:
        load_spec(tmp_path / "a.toml")
    assert time.process_time() - started < 5
    assert len(str(refused.value)) < 5000


@pytest.mark.parametrize(
    "override", [".".join("a" * 50_000) + "=1", "seed=" + "9" * 100_000, "seed=" + "[" * 30_000]
)
def test_hostile_overrides_are_refused_quickly(tmp_path, override):
    (tmp_path / "a.toml").write_text(TOML)
    started = time.process_time()
    with pytest.raises(SpecError):
        load_spec(tmp_path / "a.toml", [override])
    assert time.process_time() - started < 5


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no /dev/zero here")
def test_a_file_without_an_end_is_refused_within_little_memory():
    code = (
        "import resource; from moeash.study.spec.reading import load_spec; import moeash.errors;"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "load_spec('/dev/zero')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "SpecError: /dev/zero has" in done.stderr and "needed at most" in done.stderr


def test_a_module_given_in_python_has_the_same_spec_without_a_source_of_data():
    spec = spec_of_module(
        {"name": "mine", "budget": {"evaluations": 9}, "network": {"exclude": ["fc*"]}},
        module="Net.Inner",
        metric="accuracy",
        calibration="0123",
    )
    assert spec.is_python and spec.data is None and spec.calibration == "0123"
    assert (spec.network.source, spec.network.exclude) == ("python:Net.Inner", ("fc*",))
    assert (spec.evaluation.metric, spec.budget.evaluations) == ("accuracy", 9)
    assert type(spec).from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"data": BASE["data"]}, "measured by a function; leave out data"),
        ({"backend": {"kind": "ray"}}, "stays in its process; leave out backend"),
        ({"codec": {"kept": "auto"}}, "codec.kept = 'auto' measures"),
        ({"network": 3}, "network is 3, needed a table"),
        ({"seeed": 3}, "unknown key 'seeed'; nearest: 'seed'"),
    ],
)
def test_a_module_given_in_python_refuses_what_it_has_no_use_for(plain, message):
    with pytest.raises(SpecError, match=message):
        spec_of_module({"name": "mine", **plain}, module="Net", metric="accuracy")


def test_a_file_may_begin_with_the_mark_that_editors_put_there(tmp_path):
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf" + TOML.encode())
    (tmp_path / "b.toml").write_text(TOML)
    assert load_spec(tmp_path / "a.toml") == load_spec(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("method", "key"),
    [
        ({"k": [2, 1_048_577]}, "k"),
        ({"name": "feedback", "k": [2, 1_048_577]}, "k"),
        ({"name": "gpfq", "levels": [1, 600_000]}, "levels"),
    ],
)
def test_more_entries_than_a_grid_can_have_are_refused_before_anything_is_done(method, key):
    data = tomllib.loads(TOML) | {"method": method}
    with pytest.raises(SpecError, match=rf"method\.{key}\[1\] is .* at most"):
        parse_spec(data)


def test_a_name_alone_stands_for_a_table_of_defaults():
    data = tomllib.loads(TOML)
    short, long = (parse_spec(data | {"method": m}) for m in ("gpfq", {"name": "gpfq"}))
    assert short == long


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def test_a_pointer_of_git_lfs_is_called_one_wherever_a_file_is_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(LFS)
    for read in (load_spec, moeash.read, moeash.verify, moeash.open_storage, load_checkpoint):
        with pytest.raises(moeash.MoeashError, match=r"is a Git LFS pointer, .*git lfs pull"):
            read(path)
