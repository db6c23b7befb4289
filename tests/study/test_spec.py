import pytest

from moeash.errors import SpecError
from moeash.methods.uniform.method import Uniform
from moeash.methods.uniform.options import UniformOptions
from moeash.searches.loop import Stop
from moeash.study.identity import identity_of, with_choices
from moeash.study.spec import (
    apply_override,
    build_method,
    load_spec,
    parse_spec,
)
from tests.digits import BASE, digits_spec, merged

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
        ({"search": {"stop": {"generation": 1}}}, "'search.stop.generation'; nearest: 'gen"),
        ({"merge": {"maxdrop": 1}}, "unknown key 'merge.maxdrop'; nearest: 'max_drop'"),
        ({"codec": {"coders": "ans"}}, "unknown key 'codec.coders'; nearest: 'coder'"),
        ({"backend": {"kinds": 1}}, "unknown key 'backend.kinds'; nearest: 'kind'"),
        ({"output": {"folder": "x", "picks": 1}}, "'output.picks'; nearest: 'pick'"),
        (
            {"method": {"name": "feedback", "trellis": 8}, "codec": {"coder": "ans"}},
            "method.trellis needs codec.coder = 'adaptive', not 'ans'",
        ),
        ({"method": {"name": "feedback", "trellis": 5}}, "trellis: input should be 0, 4, 8 or 16"),
        ({"method": {"name": "unifrom"}}, "method: no method 'unifrom'; nearest: 'uniform'"),
        ({"method": {"centr": "mean"}}, "'uniform' has no option 'centr'; nearest: 'centre'"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_name(changes, message):
    refused(changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "'name' is missing"),
        ({"network": None}, "'network' is missing"),
        ({"name": "a/b"}, "name: string should match"),
        ({"seed": -1}, "seed: input should be greater than or equal to 0"),
        ({"seed": "many"}, "seed: input should be a valid integer"),
        ({"search": {"population": 1}}, "search.population: .*greater than or equal to 2"),
        ({"search": {"objectives": []}}, "search.objectives: .*at least 1 item"),
        ({"search": {"objectives": ["bytes"]}}, "search.objectives.0: .*'size_bytes'"),
        ({"search": {"objectives": ["entries"] * 2}}, "search.objectives: names an objective tw"),
        ({"search": {"stop": {"generations": None}}}, "search.stop: at least one of generations"),
        ({"search": {"algorithm": "sga"}}, "search.algorithm: .*'nsga2'"),
        ({"evaluation": {"max_drop": -0.1}}, "evaluation.max_drop: .*greater than or equal to 0"),
        ({"codec": {"coder": "zip"}}, "codec.coder: .*'ans', 'huffman' or 'adaptive'"),
        ({"data": {"splits": [1]}}, "data.splits: input should be a valid dictionary"),
        ({"method": {"k": [5, 2]}}, r"method: .*1 <= low <= high, got \(5, 2\)"),
        ({"method": {"k": [2, 3.5]}}, "method: k.1: input should be a valid integer"),
        ({"method": {"k": 7}}, "method: k: input should be a valid tuple"),
        ({"method": {"clip": [1.0, 1.0]}}, "method: .*low < high"),
        ({"version": 2}, "version: input should be 1"),
    ],
)
def test_values_that_do_not_fit_are_refused_where_they_are(changes, message):
    refused(changes, message)


def test_every_problem_is_told_at_once():
    message = refused({"seed": -1, "sede": 2, "codec": {"coder": "zip"}}, "seed")
    assert message.count("; ") >= 2 and "codec.coder" in message and "'sede'" in message


def test_a_file_is_read_and_overridden(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(TOML)
    spec = load_spec(
        path, ["seed=7", "data.root=../some where", "search.stop.no_gain=3", "method.k=[2, 9]"]
    )
    assert (spec.seed, spec.data.root, spec.stop()) == (7, "../some where", Stop(no_gain=3))
    assert spec.build_method() == Uniform(UniformOptions(k=(2, 9)))
    assert load_spec(path).stop() == Stop(generations=15)


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


@pytest.mark.parametrize(
    "changes",
    [
        {"search": {"stop": {"generations": 99}}},
        {"search": {"stop": {"wall_time_s": 1.5}}},
        {"backend": {"kind": "inprocess"}},
        {"output": {"folder": "anywhere"}},
        {"network": {"checkpoint": "elsewhere.safetensors"}},
        {"data": {"root": "elsewhere"}},
        {"method": {"k": (2, 64), "centre": "mean"}},  # the default, spelt out
        {"codec": {"coder": "ans"}},
    ],
)
def test_budget_place_paths_and_defaults_do_not_change_the_fingerprint(changes):
    assert digits_spec(**changes).fingerprint() == digits_spec().fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"seed": 1},
        {"network": {"source": "lenet5"}},
        {"network": {"weights": "random"}},
        {"network": {"options": {"root": 3}}},
        {"network": {"include": ["*"]}},
        {"network": {"exclude": ["*"]}},
        {"network": {"share_all": True}},
        {"data": {"source": "mnist"}},
        {"data": {"options": {"checkpoint": 1}}},
        {"data": {"splits": {"search": {"count": 201}}}},
        {"evaluation": {"metric": "macro_f1"}},
        {"evaluation": {"batch_size": 41}},
        {"evaluation": {"max_drop": 0.5}},
        {"evaluation": {"threads": 2}},
        {"evaluation": {"device": "cuda"}},
        {"method": {"k": [2, 65]}},
        {"method": {"centre": "midpoint"}},
        {"search": {"algorithm": "random"}},
        {"search": {"population": 9}},
        {"search": {"initial": "log"}},
        {"search": {"objectives": ["entries"]}},
        {"search": {"reference": {"metric": 0.5}}},
        {"merge": {"enabled": True}},
        {"merge": {"cost": "bits_per_sse"}},
        {"merge": {"floor": "baseline"}},
        {"merge": {"tolerance": 0.1}},
        {"merge": {"max_drop": 0.1}},
        {"merge": {"max_trials": 5}},
        {"codec": {"coder": "huffman"}},
        {"codec": {"kept": "float32"}},
        {"codec": {"kept": "auto"}},
        {"codec": {"norms": "as_they_are"}},
    ],
)
def test_everything_else_changes_the_fingerprint(changes):
    assert digits_spec(**changes).fingerprint() != digits_spec().fingerprint()


@pytest.mark.parametrize("codec", [{}, {"coder": "huffman"}])
def test_a_study_from_before_norms_had_a_choice_is_one_that_leaves_them(codec):
    spec = digits_spec(codec={**codec, "norms": "as_they_are"})
    stored = spec.model_dump(mode="json")
    del stored["codec"]["norms"]
    assert spec.identity(defaults=False).get("codec", {}) == codec
    assert parse_spec(with_choices(stored)) == spec
    assert identity_of(stored) == identity_of(spec.model_dump(mode="json"))
    assert "norms" not in stored["codec"]


def test_a_stored_spec_gives_the_same_spec_again():
    spec = digits_spec(output={"folder": "x"}, method={"clip": [-1, 1]})
    again = parse_spec(spec.model_dump(mode="json"))
    assert again == spec and again.fingerprint() == spec.fingerprint()


def test_a_method_is_built_from_its_table():
    assert build_method({"name": "uniform", "k": [3, 9], "zero_aligned": True}) == Uniform(
        UniformOptions(k=(3, 9), zero_aligned=True)
    )
    with pytest.raises(ValueError, match="no method 'gpfqq'"):
        build_method({"name": "gpfqq"})
